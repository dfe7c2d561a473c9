"""Light devices, their keys and a broker of a few lines, for the tests of what needs no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from second_view import second_sums, second_view

from accrue.learn.statistics import Rows, quantise
from accrue.sync.chunks import cut
from accrue.sync.clock import Clock
from accrue.sync.contribution import Scope
from accrue.sync.inbox import Inbox
from accrue.sync.ledger import Own
from accrue.sync.replica import MemoryLedger
from accrue.sync.trust import KnownKeys
from accrue.sync.view import View

# Hypothesis without a clock: the machine may be busy with something else.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIM = 3
SPACE = "5eed" * 16
SCOPE = Scope("farm", "default", SPACE, DIM)
NOW_MS = 1_760_000_000_000
DEVICES = ["deck0000000a", "deck0000000b", "deck0000000c", "deck0000000d"]


def key_for(device: str) -> Ed25519PrivateKey:
    """The same key for the same device, so that signatures are the same bytes in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(device.encode()).digest())


TRUST = KnownKeys({device: key_for(device).public_key() for device in DEVICES})


def rows(seed: int, n: int = 1, dim: int = DIM) -> Rows:
    """int16 (n, dim), the same for the same seed."""
    return quantise(np.random.default_rng(seed).normal(size=(n, dim)))


def ledger(device: str = DEVICES[0], now_ms: int = NOW_MS, scope: Scope = SCOPE) -> MemoryLedger:
    return MemoryLedger(scope, device, key_for(device), Clock(now_ms=lambda: now_ms))


def inbox(of: MemoryLedger, trust: KnownKeys = TRUST, **more: Any) -> Inbox:
    return Inbox(of.scope, trust, of.clock, of.part, known=of.revisions(), own=of.device, **more)


def everything(of: MemoryLedger) -> list[Own]:
    return [of.own(class_id) for class_id in of.owned()]


def tell(to: MemoryLedger, *said: Own) -> None:
    """Delivers contributions with their parts, in this order, through an inbox."""
    box = inbox(to)
    for own in said:
        if own.contribution.device != to.device:
            assert box.contribution(own.envelope) in (None, "replayed")
            for sha256, data in own.parts.items():
                for i, chunk in enumerate(cut(data)):
                    assert box.chunk(own.contribution.device, sha256, i, chunk) is None
    to.hear(box.ready())


def exchange(*ledgers: MemoryLedger) -> None:
    """Everybody hears all that everybody says."""
    said = [own for each in ledgers for own in everything(each)]
    for each in ledgers:
        tell(each, *said)


def bodies(of: MemoryLedger) -> list[dict[str, Any]]:
    """What a device holds, as another program would read it."""
    return [
        json.loads(json.dumps(contribution.to_body()))
        for contribution in of.replica.contributions.values()
    ]


def require_same(view: View, held: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Asserts that a view says what the second implementation makes of these bodies."""
    found = second_view(list(held))
    classes = view.classes
    assert {c: one.name for c, one in classes.items()} == found["names"]
    assert {c: list(one.aliases) for c, one in classes.items()} == found["aliases"]
    assert {c: one.since for c, one in classes.items()} == found["since"]
    assert {c: one.counts_as for c, one in classes.items() if one.counts_as} == found["counts_as"]
    assert {c: view.root(c) for c in classes} == found["roots"]
    assert {k: tuple(label) for k, label in view.labels.items()} == found["labels"]
    assert list(view.homonyms) == found["homonyms"]
    assert {c: list(one.text) for c, one in classes.items() if one.text} == found["text"]
    assert {c for c, one in classes.items() if one.kept} == found["kept"]
    placed = {
        s: (p.class_id, p.owner, p.sha256, p.start, p.n_rows, p.kind)
        for s, p in view.placements.items()
    }
    assert placed == found["where"]
    for class_id, one in classes.items():
        there = {s for s, place in placed.items() if place[0] == class_id}
        assert {*one.shots, *one.folded, *one.refusals} == there
    return found


def require_learned(of: MemoryLedger) -> None:
    """Asserts that a device has learned what the second implementation adds up."""
    found = require_same(of.view(), bodies(of))
    contents = {p.sha256: of.part(p.sha256) for p in of.view().placements.values()}
    sums = second_sums(found, contents, of.scope.dim)
    state = of.state()
    assert sorted(state) == sorted(sums)
    for class_id, (n, s, S) in sums.items():
        statistics = state.statistics(class_id)
        assert (statistics.n, statistics.s.tolist(), statistics.S.tolist()) == (n, s, S)
