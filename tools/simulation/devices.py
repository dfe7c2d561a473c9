"""One process with many devices: real ledgers, exchanges and sockets, driven by one loop."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import heapq
import os
import resource
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from accrue.learn.statistics import Rows
from accrue.store import Store
from accrue.sync.clock import Clock
from accrue.sync.endpoint import Endpoint
from accrue.sync.exchange import Exchange
from accrue.sync.inbox import Cache, Inbox
from accrue.sync.ledger import Applied, Heard
from accrue.sync.link import Loop, Timing
from accrue.sync.replica import MemoryLedger
from accrue.sync.shelf import StoreLedger
from accrue.sync.topics import Address, Topics
from accrue.sync.trust import KnownKeys
from simulation.plan import FLEET, Place, Plan, Teach, class_name, id_of_class, private_key

LOOP_S = 0.05
TIMERS_S = 0.5  # how often each device looks at its own timers
OPENING_S = 0.02  # between two connections of a process
BACKOFF_CAP_S = 10.0


class Observed(MemoryLedger):
    """A light device that notes when it applied what."""

    index: int
    seen: Events

    def hear(self, heard: Sequence[Heard]) -> Applied:
        applied = super().hear(heard)
        self.seen.note(self.index, heard)
        return applied


class ObservedStore(StoreLedger):
    """A full device's ledger, which notes the same."""

    index: int
    seen: Events
    store: Store

    def hear(self, heard: Sequence[Heard]) -> Applied:
        applied = super().hear(heard)
        self.seen.note(self.index, heard)
        return applied

    def teach(self, name: str, rows: Rows) -> None:
        self.store.add_shot(self.store.begin_teach(name, actor="simulated"), rows)

    @classmethod
    def made(cls, folder: Path, plan: Plan, device: str) -> ObservedStore:
        folder.mkdir(parents=True)
        scope = plan.scope
        store = Store.open(folder, space_id=scope.space, dim=plan.dim, class_set=scope.class_set)
        store.join_fleet(scope.fleet, device)
        key = private_key(device, plan.seed)
        ledger = cls(store, lambda revision, data: key.sign(data))
        ledger.store = store
        return ledger


class Events:
    """(observer, author, class, revision, time) of each contribution that was applied."""

    def __init__(self, device_ids: Sequence[str], classes: int) -> None:
        self._authors = {device: i for i, device in enumerate(device_ids)}
        self._classes = {id_of_class(c): c for c in range(classes)}
        self.who = array("l")
        self.revisions = array("q")
        self.times = array("d")

    def note(self, observer: int, heard: Sequence[Heard]) -> None:
        now = time.monotonic()
        for each in heard:
            said = each.contribution
            self.who.extend((observer, self._authors[said.device], self._classes[said.class_id]))
            self.revisions.append(said.revision)
            self.times.append(now)

    def latencies(self, teaches: Sequence[tuple[int, int, int, float]]) -> array[float]:
        """Of each teach on each observer, in seconds: the first time that a revision was applied
        which has it. `teaches`: (author, class, revision, time)."""
        by_key: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for author, class_index, revision, at in teaches:
            by_key.setdefault((author, class_index), []).append((revision, at))
        for revisions in by_key.values():
            revisions.sort()
        reached: dict[tuple[int, int, int], int] = {}
        found = array("f")
        for i, (revision, at) in enumerate(zip(self.revisions, self.times, strict=True)):
            observer, author, class_index = self.who[3 * i : 3 * i + 3]
            taught = by_key.get((author, class_index), [])
            place = (observer, author, class_index)
            n = reached.get(place, 0)
            while n < len(taught) and taught[n][0] <= revision:
                found.append(at - taught[n][1])
                n += 1
            reached[place] = n
        return found


class SharedTopics(Topics):
    """Remembers what it took apart: a device takes each topic apart once, 500 devices do so 500
    times."""

    def __init__(self, fleet: str) -> None:
        super().__init__(fleet)
        self._parsed: dict[str, Address | None] = {}

    def parse(self, topic: str) -> Address | None:
        if topic not in self._parsed:
            self._parsed[topic] = super().parse(topic)
        return self._parsed[topic]


@dataclass
class Device:
    index: int
    ledger: Any
    exchange: Exchange
    full: bool


def work(pipe: Connection, plan: Plan, mine: Sequence[int], place: Place) -> None:
    """A process of its own: does what it is told through the pipe, and steps its devices."""
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        _Worker(pipe, plan, mine, place).run()


class _Worker:
    def __init__(self, pipe: Connection, plan: Plan, mine: Sequence[int], place: Place) -> None:
        self._pipe = pipe
        self._plan = plan
        ids = plan.device_ids()
        self._events = Events(ids, plan.classes)
        self._loop = Loop()
        self._trust = KnownKeys({d: private_key(d, plan.seed).public_key() for d in ids})
        cache = Cache() if plan.share else None
        self._topics = SharedTopics(FLEET) if plan.share else None
        self._devices = [self._device(i, ids[i], place, cache) for i in mine]
        self._by_index = {device.index: device for device in self._devices}
        self._by_link = {device.exchange.link: device for device in self._devices}
        self._to_open = list(self._devices)
        self._waiting: list[tuple[float, Teach]] = []
        self._taught: list[tuple[int, int, int, float]] = []
        self._target: dict[tuple[str, str], int] | None = None
        self._behind: list[Device] = []
        self._converged_at = 0.0
        self._late_s = 0.0
        self._cpu_before = 0.0
        self._running = True

    def run(self) -> None:
        gc.collect()
        gc.freeze()  # a device is not 500 devices: what is there need not be looked at again
        timers = opening = 0.0
        while self._running:
            if self._pipe.poll():
                self._obey(*self._pipe.recv())
            now = time.monotonic()
            while self._to_open and now >= opening:
                self._to_open.pop().exchange.open()
                opening = max(opening, now - 1.0) + OPENING_S
            timeout = OPENING_S if self._to_open else LOOP_S
            while self._waiting and self._waiting[0][0] <= now:
                self._teach(*heapq.heappop(self._waiting))
            if self._waiting:
                timeout = min(timeout, max(0.0, self._waiting[0][0] - now))
            for link in self._loop.step(timeout):
                self._by_link[link].exchange.work()
            if now >= timers:
                timers = now + TIMERS_S
                for device in self._devices:
                    device.exchange.work()
                self._look()

    def _device(self, index: int, device: str, place: Place, cache: Cache | None) -> Device:
        plan = self._plan
        clock = Clock()
        endpoint = Endpoint(
            "127.0.0.1",
            place.ports[plan.kind_of_link(index)],
            device,
            place.password,
            place.ca,
            tls=plan.tls,
        )
        full = index < plan.full
        ledger: Observed | ObservedStore
        if full:
            ledger = ObservedStore.made(place.folder / device, plan, device)
        else:
            ledger = Observed(plan.scope, device, private_key(device, plan.seed), clock)
        ledger.index, ledger.seen = index, self._events
        inbox = Inbox(
            plan.scope,
            self._trust,
            clock,
            ledger.part,
            known=ledger.revisions(),
            own=device,
            cache=None if full else cache,
        )
        exchange = Exchange(
            ledger,
            inbox,
            endpoint,
            loop=self._loop,
            timing=Timing(backoff_cap_s=BACKOFF_CAP_S),
        )
        if self._topics is not None and not full:
            exchange.topics = self._topics
        return Device(index, ledger, exchange, full)

    def _teach(self, due: float, teach: Teach) -> None:
        device = self._by_index[teach.device]
        rows = self._plan.rows(teach.class_index, teach.shot)
        began = time.monotonic()
        self._late_s = max(self._late_s, began - due)
        device.ledger.teach(class_name(teach.class_index), rows)
        revision = device.ledger.owned()[id_of_class(teach.class_index)]
        self._taught.append((teach.device, teach.class_index, revision, began))
        device.exchange.work()

    def _look(self) -> None:
        """Which devices have all that was taught."""
        if self._target is None or not self._behind:
            return
        target = self._target
        behind = []
        for device in self._behind:
            has = device.ledger.revisions()
            own = device.ledger.device
            if any(has.get(key, 0) < revision for key, revision in target.items() if key[0] != own):
                behind.append(device)
        if not behind:
            self._converged_at = time.monotonic()
        self._behind = behind

    # ---- what the parent asks for ----------------------------------------------------------------

    def _obey(self, word: str, *given: Any) -> None:
        self._pipe.send(getattr(self, f"_do_{word}")(*given))

    def _do_status(self) -> dict[str, int]:
        return {
            "ready": sum(device.exchange.is_ready for device in self._devices),
            "settled": sum(device.exchange.is_settled for device in self._devices),
            "following": sum(device.exchange.follow.following for device in self._devices),
            "taught": len(self._taught),
            "applied": len(self._events.times),
            "behind": len(self._behind) if self._target is not None else len(self._devices),
        }

    def _do_teach(self, start: float, teaches: Sequence[Teach]) -> None:
        self._cpu_before = time.process_time()
        for teach in teaches:
            if teach.device in self._by_index:
                heapq.heappush(self._waiting, (start + teach.at_s, teach))

    def _do_taught(self) -> list[tuple[int, int, int, float]]:
        return self._taught

    def _do_target(self, target: dict[tuple[str, str], int]) -> None:
        self._target, self._behind = target, list(self._devices)
        self._look()

    def _do_latencies(self, teaches: Sequence[tuple[int, int, int, float]]) -> bytes:
        return self._events.latencies(teaches).tobytes()

    def _do_behind(self) -> list[str]:
        """Of devices that lack something, or are under way: how they stand."""
        found = []
        for device in self._devices:
            exchange, follow = device.exchange, device.exchange.follow
            lacks = sum(
                device.ledger.revisions().get(key, 0) < revision
                for key, revision in (self._target or {}).items()
                if key[0] != device.ledger.device
            )
            if lacks or not exchange.is_settled:
                found.append(
                    f"{exchange!r} lacks {lacks}, waits for {len(exchange.inbox.wanted())} parts, "
                    f"follows {follow.relay if follow.following else 'nobody'} "
                    f"({follow.snapshots} snapshots, {follow.gaps} gaps)"
                )
        return found

    def _do_digests(self) -> dict[str, str]:
        """Of every device, from its own rows. Where two devices of a process hold the same rows,
        the arithmetic on them is done once."""
        known: dict[bytes, str] = {}
        found = {}
        for device in self._devices:
            state = device.ledger.state()
            held = hashlib.sha256()
            for class_id in state:
                held.update(class_id.encode())
                held.update(hashlib.sha256(state.kept(class_id)).digest())
            key = held.digest()
            if key not in known or state.folded():
                known[key] = state.digest()
            found[device.ledger.device] = known[key]
        return found

    def _do_figures(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        refused: Counter[str] = Counter()
        figures: Counter[str] = Counter()
        for device in self._devices:
            refused.update(device.exchange.inbox.refused)
            figures.update(vars(device.exchange.figures))
            figures["connections"] += device.exchange.link.connections
            figures["link_sent_bytes"] += device.exchange.link.sent_bytes
            figures["link_received_bytes"] += device.exchange.link.received_bytes
            figures["relay_batches"] += device.exchange.follow.batches
            figures["relay_gaps"] += device.exchange.follow.gaps
            figures["snapshots"] += device.exchange.follow.snapshots
        return {
            "pid": os.getpid(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "cpu_s_while_teaching": time.process_time() - self._cpu_before,
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            "late_s": self._late_s,
            "last_applied": max(self._events.times, default=0.0),
            "refused": dict(refused),
            "figures": dict(figures),
        }

    def _do_stop(self) -> None:
        self._running = False
        for device in self._devices:
            device.exchange.close()
