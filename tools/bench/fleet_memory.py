"""Memory of one device in a fleet: what store, exchange and learner take beside the encoder.

    PYTHONPATH=tools .venv-test/bin/python tools/bench/fleet_memory.py

A broker and light devices run in this process; the device that is measured is one of its own: it
loads the default encoder and looks at a photo, then joins, takes over what the others taught, and
answers. The same without an encoder, at 512 dimensions. Bytes are resident memory, as the kernel
counts it (VmRSS; VmHWM for the peak).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

TARGET_BYTES = 60 * 2**20
FLEET, DEVICE = "memory", "0123456789ab"
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
ROOT = Path(__file__).resolve().parents[2]


def resident() -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident": int(lines["VmRSS"].split()[0]) * 1024,
        "peak": int(lines["VmHWM"].split()[0]) * 1024,
    }


def device(pipe: Connection, folder: Path, endpoint: Any, with_encoder: bool) -> None:
    """The process that is measured. Sends what it holds at each stage, by name."""
    from accrue.service.box import Box
    from accrue.service.settings import Settings

    box = Box(Settings(state=folder, actor="bench"))
    dim, space = 512, "ab" * 32
    if with_encoder:
        photo = next((ROOT / "tools" / "samples" / "test").rglob("*.jpg"))
        list(box.embed([(photo.name, photo)], 1))
        dim, space = box.bundle.manifest.dim, box.bundle.manifest.space_id
    stages = {"before": resident()}
    pipe.send(("space", space, dim))
    keys = pipe.recv()

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from accrue.store import Store
    from accrue.sync.clock import Clock
    from accrue.sync.exchange import Exchange
    from accrue.sync.inbox import Inbox
    from accrue.sync.shelf import StoreLedger
    from accrue.sync.trust import KnownKeys

    store = Store.open(folder, space_id=space, dim=dim, class_set="default")
    store.join_fleet(FLEET, DEVICE)
    own = Ed25519PrivateKey.generate()
    known = {d: Ed25519PrivateKey.from_private_bytes(k).public_key() for d, k in keys.items()}
    ledger = StoreLedger(store, lambda revision, data: own.sign(data))
    inbox = Inbox(ledger.scope, KnownKeys(known), Clock(), ledger.part, own=DEVICE)
    exchange = Exchange(ledger, inbox, endpoint)
    exchange.open()
    while not exchange.is_settled:
        exchange.step(0.1)
    stages["store and exchange"] = resident()
    state = ledger.state()
    if with_encoder:
        learned = box.learned()
        learned.decide(np.eye(dim, dtype=np.float32)[:4])
        stages["and the learner, after an answer"] = resident()
    pipe.send(("stages", stages, len(state), state.n, state.digest()))
    exchange.close()


def others(space: str, dim: int, classes: int, shots: int) -> tuple[Any, list[Any]]:
    """Light devices, one for each shot of a class, that have taught what is to be shared."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from accrue.learn.statistics import quantise
    from accrue.sync.contribution import Scope
    from accrue.sync.replica import MemoryLedger

    rng = np.random.default_rng(0)
    scope = Scope(FLEET, "default", space, dim)
    found = []
    for _ in range(shots):
        name = "".join(rng.choice(list(CROCKFORD), 12))
        found.append((name, Ed25519PrivateKey.generate()))
    ledgers = [MemoryLedger(scope, name, key) for name, key in found]
    centres = rng.normal(size=(classes, dim))
    for c in range(classes):
        for ledger in ledgers:
            ledger.teach(f"class {c}", quantise(centres[c : c + 1] + rng.normal(size=(1, dim))))
    return {name: key.private_bytes_raw() for name, key in found}, ledgers


def measured(classes: int, shots: int, with_encoder: bool) -> dict[str, Any]:
    from accrue.sync.broker import BrokerPlan
    from accrue.sync.clock import Clock
    from accrue.sync.exchange import Exchange
    from accrue.sync.inbox import Inbox
    from accrue.sync.link import Loop
    from accrue.sync.local_broker import LocalBroker
    from accrue.sync.trust import KnownKeys

    with tempfile.TemporaryDirectory(prefix="fleet-memory-") as name:
        folder = Path(name)
        broker = LocalBroker(folder / "broker", BrokerPlan(FLEET, tls=False), {DEVICE: "device"})
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        endpoint = broker.endpoint(DEVICE)
        process = context.Process(
            target=device, args=(there, folder / "state", endpoint, with_encoder), daemon=True
        )
        process.start()
        _, space, dim = here.recv()
        keys, ledgers = others(space, dim, classes, shots)
        for ledger in ledgers:
            broker.add(ledger.device, "device")
        with broker:
            loop = Loop()
            exchanges = []
            for ledger in ledgers:
                inbox = Inbox(ledger.scope, KnownKeys({}), Clock(), ledger.part, own=ledger.device)
                exchanges.append(Exchange(ledger, inbox, broker.endpoint(ledger.device), loop=loop))
                exchanges[-1].open()
            _until(loop, exchanges, lambda: all(e.is_ready for e in exchanges))
            here.send(keys)
            _until(loop, exchanges, lambda: here.poll())
            _, stages, held, rows, digest = here.recv()
            loop.close()
        process.join(20)
    assert (held, rows) == (classes, classes * shots), "the device has not all that was taught"
    before = stages["before"]["resident"]
    return {
        "dim": dim,
        "encoder": with_encoder,
        "classes": classes,
        "shots": shots,
        "digest": digest,
        "before_bytes": before,
        "added_bytes": {
            name: one["resident"] - before for name, one in stages.items() if name != "before"
        },
        "peak_bytes": max(one["peak"] for one in stages.values()),
    }


def _until(loop: Any, exchanges: list[Any], done: Callable[[], bool]) -> None:
    while not done():
        loop.step(0.05)
        for exchange in exchanges:
            exchange.work()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [measured(args.classes, args.shots, encoder) for encoder in (True, False)]
    if args.json:
        print(json.dumps(found))
    else:
        for one in found:
            what = "beside the encoder" if one["encoder"] else "without an encoder"
            print(f"{what}, {one['classes']} classes of {one['shots']} shots, d={one['dim']}")
            print(f"  before: {one['before_bytes'] / 2**20:.1f} MiB")
            for stage, added in one["added_bytes"].items():
                print(f"  {stage}: + {added / 2**20:.1f} MiB")
            print(f"  peak of the process: {one['peak_bytes'] / 2**20:.1f} MiB")
    return int(any(max(one["added_bytes"].values()) > TARGET_BYTES for one in found))


if __name__ == "__main__":
    sys.exit(main())
