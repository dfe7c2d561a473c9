"""Every benchmark beside its peers, one after another, and a page of what came out.

    ./tools/bench/all [--quick] [--only NAME ...] [--train DIR --test DIR] [--out FOLDER]

Each part is a benchmark of its own in this folder, run as it would be by hand. FOLDER gets for each
one what it printed (NAME.txt) and its figures (NAME.json), then `targets.json`, plots, and
`measurements.md`. A part that fails is told on the page, and the others go on; the exit code is
then 1. With `--page` nothing is measured: the page is made anew from what FOLDER holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, Clock, describe_machine, find_accrue, machine_line, progress, write_json

find_accrue()

SAMPLES = ROOT / "tools/samples"
PACKAGES = ("accrue", "numpy", "onnxruntime", "scikit-learn", "river", "pillow")
Found = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What was aimed at, and what came out; `value` is None where it was not measured."""

    what: str
    limit: float
    unit: str
    value: float | None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if self.value <= self.limit else "missed"


@dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
        title, about: of its section.
        words: its command line after the interpreter, by whether it is to be quick.
        json: whether it writes one with ``--json``; else (``stdout``) it prints it.
    """

    name: str
    title: str
    about: str
    words: Callable[[bool], list[str]]
    json: str = "file"


def _bench(name: str, *always: str, quick: Iterable[str] = (), full: Iterable[str] = ()) -> Any:
    return lambda is_quick: [f"tools/bench/{name}.py", *always, *(quick if is_quick else full)]


PARTS = (
    Part(
        "heads",
        "Learning and predicting",
        "One more shot to an exact head, and a prediction, beside scikit-learn, river and a bare "
        "product of matrix and vector, on the same rows, taking turns. `to Accrue` and `to W @ x` "
        "are ratios.",
        _bench(
            "heads",
            "--dims",
            "512",
            quick=("--quick", "--no-memory"),
            full=("--budget", "8", "--refit-limit", "10"),
        ),
    ),
    Part(
        "growth",
        "Growth with dimension and shots",
        "The same turns: 1,000 classes of five shots by dimension, 100 classes at d = 512 by the "
        "shots of each. A shot is at most O(dim²) and a prediction O(dim² + classes · dim); "
        "neither depends on how many shots were taught.",
        _bench("growth", quick=("--dims", "128,512", "--shots", "2,20", "--rounds", "10")),
    ),
    Part(
        "encode",
        "A photo to an embedding",
        "Decode, preprocess, encode, and the whole as the device does it.",
        _bench("encode", quick=("--quick",)),
    ),
    Part(
        "batches",
        "Images at once",
        "The ten views of a shot by how many are encoded at once: why it is two on a CPU.",
        _bench("batches", quick=("--rounds", "2")),
    ),
    Part(
        "pipeline",
        "A 1080p frame to a label",
        "Each stage, and how much of it is not the encoder, beside the 123 ms that MobileCLIP2-S0 "
        "takes on two cores.",
        _bench("pipeline", str(SAMPLES / "test"), quick=("--frames", "60")),
    ),
    Part(
        "refresh",
        "A lesson to an answer",
        "From a shot on the disk to answers that know it, while cameras are watched.",
        _bench("refresh", quick=("--classes", "10", "100", "--lessons", "3")),
    ),
    Part(
        "service",
        "Start-up and memory of the device",
        "From the start of the process to the first answer, and resident memory, by classes.",
        _bench("service", quick=("--classes", "10", "1000", "--starts", "2")),
    ),
    Part(
        "fleet",
        "A fleet",
        "Simulated devices (the code of real ones, made-up embeddings) on one Mosquitto with a "
        "relay: what one teaches, until all others have it.",
        lambda quick: [
            "tools/fleet_sim.py",
            *("--devices", "50" if quick else "200"),
            *("--rate", "50", "--json"),
        ],
        json="stdout",
    ),
    Part(
        "fleet_small",
        "A smaller fleet",
        "The same with fewer devices, at the same number of lessons a second.",
        lambda quick: [
            "tools/fleet_sim.py",
            *("--devices", "10" if quick else "50"),
            *("--rate", "50", "--json"),
        ],
        json="stdout",
    ),
    Part(
        "accuracy",
        "Accuracy beside other methods",
        "Classes taught by 1 and by more shots; every method on the same embeddings: with one view "
        "of a photo, as published, and with the views that Accrue takes (ten taught, two asked).",
        lambda quick: ["tools/bench/accuracy.py", "run", "--views", "10", "--test-views", "2"],
        json="",
    ),
)


def targets(found: dict[str, Found]) -> Iterator[Target]:
    """The figures that the project promises, for two cores."""

    def of(part: str, read: Callable[[Found], float]) -> float | None:
        try:
            return read(found[part])
        except (KeyError, StopIteration, TypeError):
            return None

    def head(classes: int, name: str) -> Callable[[Found], Found]:
        return lambda heads: next(
            one
            for size in heads["sizes"]
            if (size["dim"], size["classes"]) == (512, classes)
            for one in size["contestants"]
            if one["name"] == name
        )

    def at(classes: int) -> Callable[[Found], Found]:
        return lambda service: next(s for s in service["sizes"] if s["classes"] == classes)

    for name in ("cosine", "gaussian", "ridge"):
        full = f"accrue {name}"
        yield Target(
            f"one shot to the exact served {name} head, d = 512, 1,000 classes",
            0.5,
            "ms",
            of("heads", lambda h, full=full: head(1000, full)(h)["shot"]["median"]),
        )
    for name in ("cosine", "gaussian"):
        full = f"accrue {name}"
        yield Target(
            f"10,000 classes predicted ({name}), beside one float32 product",
            1.2,
            "times",
            of("heads", lambda h, full=full: head(10_000, full)(h)["predict_to_product"]),
        )
    yield Target(
        "a 1080p frame, all but the encoder, of 123 ms",
        10,
        "%",
        of("pipeline", lambda p: 100 * p["share"]),
    )
    yield Target(
        "one photo to embedding, default encoder",
        12,
        "ms",
        of("encode", lambda e: e["ms"]["whole"]["median"]),
    )
    for classes in (10, 1000):
        yield Target(
            f"cold start of the device to its first label, {classes:,} classes",
            1,
            "s",
            of("service", lambda s, n=classes: at(n)(s)["run_ms"]["median"] / 1000),
        )
    yield Target(
        "memory of the device beside the encoder, 1,000 classes",
        60,
        "MB",
        of("service", lambda s: at(1000)(s)["beside_encoder_mb"]),
    )
    yield Target(
        "95 % of what is taught is with every device after",
        1,
        "s",
        of("fleet", lambda f: f["latency_s"]["p95"]),
    )


def run_part(part: Part, options: argparse.Namespace) -> bool:
    """Whether it ended well."""
    out: Path = options.out
    words = part.words(options.quick)
    result = out / f"{part.name}.json"
    if part.name == "accuracy":
        words += ["--train", str(options.train), "--test", str(options.test)]
        words += ["-o", str(out / "accuracy"), "--protocol", "shots"]
        words += ["--quick"] if options.quick else []
    if part.json == "file":
        words += ["--json", str(result)]
    progress(f"{part.name}: {' '.join(words)}")
    clock = Clock()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), *sys.path])}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    told = {"words": words, "exit": done.returncode, "seconds": clock.ms / 1000}
    write_json(out / f"{part.name}.run.json", told)
    if part.json == "stdout":
        result.write_text(done.stdout)
    else:
        (out / f"{part.name}.txt").write_text(done.stdout)
    if done.returncode:
        progress(f"{part.name}: FAILED with exit code {done.returncode}")
    return done.returncode == 0


def page(out: Path, machine: Found) -> str:
    found = {
        part.name: json.loads((out / f"{part.name}.json").read_text())
        for part in PARTS
        if (out / f"{part.name}.json").exists()
    }
    aims = list(targets(found))
    write_json(out / "targets.json", [{**vars(aim), "verdict": aim.verdict} for aim in aims])
    lines = [
        "# Measurements",
        "",
        "Made by `./tools/bench/all`. What the figures were taken on: "
        f"{machine_line(machine)}; {machine['date']}.",
        "",
        "Times are medians (quartiles). How decisions were reached, with figures that take hours "
        "or photos of one's own: [Experiments](experiments.md).",
        "",
        "## Targets",
        "",
        "| for two cores | target | measured | |",
        "|---|---|---|---|",
    ]
    for aim in aims:
        value = "-" if aim.value is None else f"{aim.value:.2f} {aim.unit}"
        lines.append(f"| {aim.what} | {aim.limit:g} {aim.unit} | {value} | {aim.verdict} |")
    lines += [
        "",
        "Why some are missed, and what was tried: "
        "[Experiments](experiments.md#targets-that-are-missed).",
    ]
    plots = draw(out, found)
    for part in PARTS:
        ran = out / f"{part.name}.run.json"
        if not ran.exists():
            continue
        told = json.loads(ran.read_text())
        command = " ".join(told["words"]).replace(str(out), "OUT").replace(f"{ROOT}{os.sep}", "")
        lines += ["", f"## {part.title}", "", part.about, ""]
        lines += [f"`python {command}` ({told['seconds']:.0f} s)", ""]
        if told["exit"]:
            lines += [f"**It failed with exit code {told['exit']}.**", ""]
        if part.name.startswith("fleet"):
            lines += fleet_table(found.get(part.name, {}))
        elif part.name == "accuracy":
            tables = out / "accuracy" / "tables.md"
            lines += [tables.read_text().strip() if tables.exists() else "", ""]
        else:
            lines += ["```text", (out / f"{part.name}.txt").read_text().strip(), "```"]
        lines += [line for plot in plots.get(part.name, ()) for line in ("", plot)]
    return "\n".join(lines).rstrip() + "\n"


def fleet_table(fleet: Found) -> list[str]:
    try:
        latency, snapshot = fleet["latency_s"], fleet["snapshot"]
        rows = [
            (
                "devices, classes, shots",
                f"{fleet['devices']}, {fleet['classes']}, {fleet['shots']}",
            ),
            ("equal digests", "all" if fleet["equal_digests"] else "NOT ALL"),
            ("taught to applied, p50", f"{latency['p50']:.2f} s"),
            ("p95", f"{latency['p95']:.2f} s"),
            ("p99", f"{latency['p99']:.2f} s"),
            ("bytes of a class, retained", f"{snapshot['bytes_per_class_mean']:,}"),
            ("load before and after", " and ".join(f"{x:.1f}" for x in fleet["load_average"])),
        ]
    except KeyError as error:
        return [f"No figures: {error} is missing."]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def draw(out: Path, found: dict[str, Found]) -> dict[str, list[str]]:
    """Plots of how it grows, as Markdown images by part."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "accrue"
    from matplotlib import pyplot

    made: dict[str, list[str]] = {}

    def save(part: str, name: str, figure: Any, text: str) -> None:
        figure.tight_layout()
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
        made.setdefault(part, []).append(f"![{text}](images/{name}.svg)")

    if "heads" in found:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4))
        lines: dict[str, list[tuple[int, Found]]] = {}
        for size in found["heads"]["sizes"]:
            for one in size["contestants"]:
                lines.setdefault(one["name"], []).append((size["classes"], one))
        for name, points in lines.items():
            style = "-o" if name.startswith("accrue") else "--."
            for axes, key in ((left, "shot"), (right, "predict")):
                known = [(n, one[key]["median"]) for n, one in points if one[key]]
                if known:
                    axes.plot(*zip(*known, strict=True), style, label=name)
        for axes, title in ((left, "one more shot, ms"), (right, "one prediction, ms")):
            axes.set(xscale="log", yscale="log", xlabel="classes", title=title)
            axes.grid(alpha=0.3)
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        save("heads", "growth-heads", figure, "Time of a shot and of a prediction by classes")
    if "growth" in found:
        figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
        for axes, by, title in zip(
            panels, ("dims", "shots"), ("dimension", "shots of each class"), strict=True
        ):
            growth: dict[str, list[tuple[int, Found]]] = {}
            for size in found["growth"][by]:
                for one in size["heads"]:
                    growth.setdefault(one["name"], []).append((size["value"], one))
            for name, points in growth.items():
                values = [n for n, _ in points]
                (line,) = axes.plot(values, [one["shot"]["median"] for _, one in points], "-o")
                line.set_label(f"{name}, one shot")
                predict = [one["predict"]["median"] for _, one in points]
                axes.plot(values, predict, "--", color=line.get_color())
            axes.set(xscale="log", yscale="log", xlabel=title)
            axes.grid(alpha=0.3)
        panels[0].set(ylabel="ms", title="lines: one shot; dashes: one prediction")
        panels[1].legend(fontsize=7)
        save("growth", "growth-dims-shots", figure, "Time of a shot by dimension and by shots")
    fleets = [found[name] for name in ("fleet_small", "fleet") if name in found]
    if len(fleets) > 1:
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for share in ("p50", "p95", "p99"):
            points_s = [one["latency_s"][share] for one in fleets]
            axes.plot([one["devices"] for one in fleets], points_s, "-o", label=share)
        axes.set(xlabel="devices", ylabel="s", ylim=(0, None))
        axes.set_title("taught by one, until all others have it")
        axes.grid(alpha=0.3)
        axes.legend()
        save("fleet_small", "growth-devices", figure, "Time to all devices by their number")
    if "service" in found:
        figure, axes = pyplot.subplots(figsize=(6, 4))
        sizes = found["service"]["sizes"]
        classes = [one["classes"] for one in sizes]
        axes.plot(classes, [one["beside_encoder_mb"] for one in sizes], "-o", label="memory")
        axes.plot(classes, [one["disk_mb"] for one in sizes], "-s", label="on the disk")
        axes.set(xscale="log", xlabel="classes of five shots", ylabel="MB", ylim=(0, None))
        axes.set_title("beside the encoder")
        axes.grid(alpha=0.3)
        axes.legend()
        save("service", "growth-memory", figure, "Memory and disk by classes")
    return made


def main() -> int:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--train", type=Path, default=SAMPLES / "teach", metavar="DIR")
    parser.add_argument("--test", type=Path, default=SAMPLES / "test", metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="FOLDER")
    parser.add_argument("--page", action="store_true", help="measure nothing; make the page anew")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.train, options.test = options.train.resolve(), options.test.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    described = options.out / "machine.json"
    well = True
    if not options.page:
        write_json(described, describe_machine(PACKAGES))
        for part in PARTS:
            if part.name in options.only:
                well &= run_part(part, options)
    elif not described.exists():
        print(
            f"all: no figures in {options.out}; measure first: ./tools/bench/all", file=sys.stderr
        )
        return 2
    text = page(options.out, json.loads(described.read_text()))
    (options.out / "measurements.md").write_text(text, encoding="utf-8")
    progress(f"wrote {options.out / 'measurements.md'}")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
