"""Measures every realisation of an encoder on this machine; see tools/gpu_check."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from accrue import __version__
from accrue.bundle import Bundle, default_bundle_path
from accrue.device import Device, describe
from accrue.errors import AccrueError
from accrue.service.engines import Engines
from accrue.service.settings import Settings
from accrue.vision.encode import BundleEncoder, OnnxEncoder, golden_check
from accrue.vision.engines import FLAVOURS, open_engine
from accrue.vision.engines.selection import ONNX_CPU, ONNX_CUDA, PROVIDERS, Facts, select

BATCHES = (1, 8)  # one frame of a camera, and a full batch of photos
WARM_UP, REPEATS = 5, 50  # runs
SECONDS_AT_MOST = 20  # of the repeats, for slow encoders on a CPU


def latency(encoder: BundleEncoder, size: int) -> dict[str, Any]:
    """Milliseconds of a whole batch of preprocessed images, copies to and from the GPU included."""
    found = {}
    rng = np.random.default_rng(0)
    for count in BATCHES:
        batch = rng.integers(0, 256, (count, size, size, 3), np.uint8)
        for _ in range(WARM_UP):
            encoder.encode_prepared(batch)
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < REPEATS and time.perf_counter() - started < SECONDS_AT_MOST:
            begin = time.perf_counter()
            encoder.encode_prepared(batch)
            times.append(1000 * (time.perf_counter() - begin))
        found[f"batch_{count}"] = {
            "median_ms": round(float(np.median(times)), 3),
            "p95_ms": round(float(np.percentile(times, 95)), 3),
            "runs": len(times),
        }
    return found


def onnx(bundle: Bundle, candidate: str) -> dict[str, Any]:
    started = time.perf_counter()
    providers = list(dict.fromkeys([PROVIDERS[candidate], PROVIDERS[ONNX_CPU]]))
    encoder = OnnxEncoder(bundle, providers=providers)
    load_s = time.perf_counter() - started
    return {
        "load_s": round(load_s, 3),
        "parity": asdict(golden_check(encoder, bundle)),
        "latency": latency(encoder, bundle.manifest.size),
    }


def engine(bundle: Bundle, device: Device, flavour: str, told: dict[str, Any]) -> None:
    """What was measured goes into `told` at once, so that it stays where a later step fails."""
    with tempfile.TemporaryDirectory() as folder:
        engines = Engines(Settings(state=Path(folder), bundle=bundle.path), device)
        built = engines.build(flavour=flavour)
        told["build_s"], told["plan_bytes"] = built.engine.build_s, built.engine.bytes
        told["key"] = built.engine.key.document()
        for name, graphs in (("graphs_on", True), ("graphs_off", False)):
            started = time.perf_counter()
            encoder = open_engine(bundle, engines.folder, built.engine, graphs=graphs)
            part = told[name] = {"load_s": round(time.perf_counter() - started, 3)}
            part["parity"] = asdict(golden_check(encoder, bundle))
            part["latency"] = latency(encoder, bundle.manifest.size)
            part["no_graphs"] = encoder.no_graphs
            encoder.close()


def section(measure: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    told: dict[str, Any] = {"measured": False}
    try:
        measure(told)
        told["measured"] = True
    except AccrueError as error:
        told["failed"] = str(error)
    return told


def check(bundle: Bundle, device: Device) -> dict[str, Any]:
    fits = select(Facts(device, engines=dict.fromkeys(FLAVOURS)))
    sections: dict[str, Any] = {}
    for name in (*FLAVOURS, ONNX_CUDA, ONNX_CPU):
        note(f"{name} ...")
        why = fits.why_not(name)
        if name in FLAVOURS and (why is None or device.package(name) is not None):
            sections[name] = section(lambda told, f=name: engine(bundle, device, f, told))
        elif why is None:
            sections[name] = section(lambda told, c=name: told.update(onnx(bundle, c)))
        else:
            sections[name] = {"measured": False}
        if why is not None:
            sections[name]["missing"] = str(why)
    return {
        "producer": f"accrue {__version__}",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "encoder": bundle.manifest.name,
        "space_id": bundle.manifest.space_id,
        "device": device.document(),
        "sections": sections,
    }


def note(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--bundle", type=Path, default=default_bundle_path())
    words = parser.parse_args()
    try:
        result = check(Bundle.open(words.bundle), describe())
        words.output.write_text(json.dumps(result, indent=1) + "\n")
    except (AccrueError, OSError) as error:
        note(f"gpu_check: {error}")
        return 1
    for name, told in result["sections"].items():
        state = "measured" if told["measured"] else "NOT measured"
        note(f"{name:<13} {state:<13} {told.get('missing') or told.get('failed') or ''}")
    note(f"written to {words.output}")
    on_gpu = [told for name, told in result["sections"].items() if name != ONNX_CPU]
    if not any(told["measured"] for told in on_gpu):
        note("gpu_check: nothing was measured on a GPU; what is missing stands above")
        return 1
    return 1 if any("failed" in told and "missing" not in told for told in on_gpu) else 0


if __name__ == "__main__":
    sys.exit(main())
