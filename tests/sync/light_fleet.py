"""Light devices of one fleet, and waiting for what they are to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.sync.contribution import Scope
from accrue.sync.endpoint import Endpoint
from accrue.sync.exchange import Exchange
from accrue.sync.inbox import Inbox
from accrue.sync.link import Loop, Timing
from accrue.sync.replica import MemoryLedger
from accrue.sync.topics import Topics
from accrue.sync.trust import KnownKeys

FLEET = "dock"
QUICK = Timing(connect_s=5.0, keepalive_s=30, backoff_base_s=0.02, backoff_cap_s=0.2)
DEADLINE_S = 30.0


def device_id(number: int) -> str:
    return f"{number:012d}"


def until(condition: Callable[[], object], *steps: Callable[[float], object]) -> None:
    """Runs the steps until the condition holds, for half a minute at most."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            said = [getattr(step, "__self__", step) for step in steps]
            raise AssertionError(f"did not happen in time: {said}")
        for step in steps:
            step(0.02)


class Fleet:
    """Light devices of one scope, each with its own loop, so that none waits for another."""

    def __init__(self, dim: int = 64, devices: int = 2) -> None:
        self.scope = Scope(FLEET, "default", "ab" * 32, dim)
        self.topics = Topics(FLEET)
        self.ids = [device_id(i) for i in range(1, devices + 1)]
        self.keys = {one: Ed25519PrivateKey.generate() for one in self.ids}
        self.trust = KnownKeys({one: key.public_key() for one, key in self.keys.items()})
        self.ledgers = {one: self.new_ledger(one) for one in self.ids}
        self.exchanges: list[Exchange] = []
        self._rng = np.random.default_rng(5)

    def new_ledger(self, device: str) -> MemoryLedger:
        return MemoryLedger(self.scope, device, self.keys[device])

    def exchange(
        self,
        endpoint: Endpoint,
        device: str | None = None,
        timing: Timing = QUICK,
        loop: Loop | None = None,
        **options: Any,
    ) -> Exchange:
        """Of the device whose user name the endpoint has; open."""
        ledger = self.ledgers[device or endpoint.user]
        inbox = Inbox(
            self.scope,
            self.trust,
            ledger.clock,
            ledger.part,
            known=ledger.revisions(),
            own=ledger.device,
        )
        exchange = Exchange(ledger, inbox, endpoint, timing=timing, loop=loop, **options)
        self.exchanges.append(exchange)
        exchange.open()
        return exchange

    def rows(self, count: int = 1, near: int = 0) -> np.ndarray:
        """int16 (count, dim) unit rows."""
        rows = self._rng.normal(size=(count, self.scope.dim))
        rows[:, near % self.scope.dim] += 3
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.clip(np.rint(rows * 2**15), -32767, 32767).astype(np.int16)

    def digests(self) -> list[str]:
        return [ledger.view().digest() for ledger in self.ledgers.values()]

    def close(self) -> None:
        for exchange in self.exchanges:
            if exchange.link in exchange.loop.links:
                exchange.close()
