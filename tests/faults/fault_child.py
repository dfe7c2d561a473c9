"""Runs a scenario on a file system that fails at each of its changes in turn, and prints what was
wrong afterwards, as JSON. Started by test_disk_faults.py with faulty.so preloaded.

    python fault_child.py SCENARIO FOLDER [START STRIDE]
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from faulty import Change, Failing, Replay, watched

from accrue.errors import AccrueError, NotFound
from accrue.store import Store, backup, restore

SPACE, DIM = "5" * 64, 8
ERRORS = {"full": errno.ENOSPC, "failing": errno.EIO, "read-only": errno.EROFS}
Step = tuple[str, Callable[[], object]]


def rows(seed: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32767, 32768, (n, DIM)).astype(np.int16)


def facts(state: Path) -> Any:
    """What a state holds, without ids and times; what is wrong with it, too."""
    try:
        with Store.open(state, readonly=True) as store:
            classes = [
                (one.name, len(one.shot_ids), one.statistics().digest())
                for one in store.rows_by_class()
            ]
            return [store.check(), classes, [(e.verb, e.summary) for e in store.history()]]
    except NotFound:
        return "nothing"


class Scenario:
    """Steps on a folder. `steps` opens what they need, anew in each run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.open = ExitStack()

    def begin(self) -> None:
        """What is there before anything fails."""

    def steps(self) -> list[Step]:
        raise NotImplementedError

    def facts(self) -> Any:
        return facts(self.state)

    def left(self) -> list[str]:
        """Files that nobody needs."""
        return [
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.name.startswith(".") or path.suffix in (".tmp", ".restoring")
        ]


class Teaching(Scenario):
    """A new state is taught, changed, folded and purged."""

    def steps(self) -> list[Step]:
        kept: list[Store] = []

        def opened() -> Store:
            if not kept:
                store = Store.open(self.state, space_id=SPACE, dim=DIM)
                kept.append(self.open.enter_context(store))
            return kept[0]

        def teach(name: str, seed: int) -> Callable[[], object]:
            return lambda: opened().add_shot(
                opened().begin_teach(name), rows(seed), thumb=b"\xff\xd8" + bytes(9000)
            )

        return [
            ("open", opened),
            ("teach bolt", teach("bolt", 1)),
            ("teach nut", teach("nut", 2)),
            ("rename", lambda: opened().rename("nut", "hex nut")),
            ("merge", lambda: opened().merge("hex nut", "bolt")),
            ("undo", lambda: opened().undo()),
            ("fold", lambda: opened().set_retention("bolt", retain="statistics")),
            ("teach gear", teach("gear", 3)),
            ("remove", lambda: opened().remove("gear")),
            ("purge", lambda: opened().purge("hex nut")),
            ("teach stud", teach("stud", 4)),
            ("close", self.open.close),
        ]


class Updating(Scenario):
    """A state of the first version is brought up to date."""

    SAMPLE = Path(__file__).parents[1] / "data" / "store" / "v1"

    def begin(self) -> None:
        self.state.mkdir()
        shutil.copyfile(self.SAMPLE / "state.db", self.state / "state.db")

    def steps(self) -> list[Step]:
        return [("update", lambda: Store.open(self.state).close())]

    def facts(self) -> Any:
        with Store.open(self.state) as store:
            return [store.check(), [(c.name, c.shots) for c in store.classes()]]


class Saving(Scenario):
    """A backup replaces an older one, and is restored over a state that has gone on."""

    def begin(self) -> None:
        with Store.open(self.state, space_id=SPACE, dim=DIM) as store:
            store.add_shot(store.begin_teach("bolt"), rows(1))
            backup(store, self.folder / "backup")
            store.add_shot(store.begin_teach("nut"), rows(2))

    def steps(self) -> list[Step]:
        def teach() -> None:
            with Store.open(self.state) as store:
                store.add_shot(store.begin_teach("gear"), rows(3))

        def save() -> None:
            with Store.open(self.state, readonly=True) as store:
                backup(store, self.folder / "newer")

        return [
            ("teach", teach),
            ("back up", save),
            ("restore", lambda: restore(self.folder / "backup", self.state)),
            ("restore newer", lambda: restore(self.folder / "newer", self.state)),
        ]

    def facts(self) -> Any:
        return [facts(self.state), (self.folder / "newer").exists()]


class Beside(Scenario):
    """What lies beside the state: who has access, replies, the unknown, the fleet's outbox."""

    def steps(self) -> list[Step]:
        from accrue.service.access import Access
        from accrue.service.http.replies import Replies
        from accrue.service.unknown import Queue
        from accrue.sync.identity import Identity
        from accrue.sync.outbox import DiskOutbox

        def access() -> None:
            with Access(self.state) as opened:
                if not opened.all():
                    opened.add("crane", "viewer", by="tests")

        def replies() -> None:
            opened = Replies(self.state)
            try:
                opened.keep("me", "key", "digest", 200, b"{}")
            finally:
                opened.close()

        def unknown() -> None:
            Queue(self.state, SPACE, DIM).close()

        def outbox() -> None:
            opened = DiskOutbox(self.state / "outbox.db")
            try:
                opened.put("a/b", b"x")
                opened.remove("a/b", b"x")
            finally:
                opened.close()

        def identity() -> None:
            Identity.load_or_create(self.folder / "fleet")

        return [
            ("access", access),
            ("replies", replies),
            ("unknown", unknown),
            ("outbox", outbox),
            ("identity", identity),
        ]

    def facts(self) -> Any:
        from accrue.service.access import Access

        if not (self.state / "access.db").exists():
            return []
        with Access(self.state) as opened:
            return [grant.name for grant in opened.all()]


SCENARIOS: dict[str, type[Scenario]] = {
    "teaching": Teaching,
    "updating": Updating,
    "saving": Saving,
    "beside": Beside,
}


def fresh(kind: type[Scenario], folder: Path) -> Scenario:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    scenario = kind(folder)
    scenario.begin()
    return scenario


def reference(kind: type[Scenario], folder: Path) -> tuple[list[Any], int]:
    """What is there before each step and at the end, and how many changes the steps make."""
    scenario, counted = fresh(kind, folder), Failing()
    found = [scenario.facts()]
    for _, step in scenario.steps():
        with watched(folder, counted):
            step()
        found.append(scenario.facts())
    scenario.open.close()
    assert scenario.left() == []
    return found, counted.changes


def attempt(scenario: Scenario, failing: Failing, expected: list[Any], last: Any) -> list[str]:
    """Runs the steps; what is not as it should be."""
    wrong: list[str] = []
    steps, number = scenario.steps(), 0
    said: AccrueError | None = None
    with watched(scenario.folder, failing):
        while number < len(steps):
            name, step = steps[number]
            try:
                step()
            except AccrueError as error:
                said = error
                if len(str(error).splitlines()) != 1:
                    wrong.append(f"{name}: more than a line: {error}")
                if failing.lasting:
                    break
                if failing.failed and failing.changes > failing.at + 2000:
                    wrong.append(f"{name}: fails again though the disk is well: {error}")
                    break
                failing.changes += 1000
                continue  # the disk is well again: once more
            except BaseException as error:
                wrong.append(f"{name}: {type(error).__name__} escaped: {error}")
                break
            number += 1
    with suppress(AccrueError):
        scenario.open.close()
    found = scenario.facts()
    allowed = [last] if number == len(steps) else expected[number : number + 2]
    if found not in allowed and not wrong:
        wrong.append(f"after step {number} ({said}): {found}; expected {allowed[0]}")
    may_stay = failing.error != errno.ENOSPC and (  # what cannot be deleted
        failing.lasting or failing.failed[0].startswith(("unlink", "rmdir"))
    )
    if (left := scenario.left()) and not may_stay:
        wrong.append(f"left behind: {left}")
    return [f"{one} [{failing.failed[:1]}]" for one in wrong]


def failures(kind: type[Scenario], folder: Path, start: int, stride: int) -> dict[str, Any]:
    expected, changes = reference(kind, folder)
    wrong: list[str] = []
    tried = hit = 0
    for way, (name, error, lasting) in enumerate(
        (name, error, lasting) for name, error in ERRORS.items() for lasting in (False, True)
    ):
        for at in range(1 + (start + way) % stride, changes + 1, stride):
            failing = Failing(at, error, lasting)
            found = attempt(fresh(kind, folder), failing, expected, expected[-1])
            tried += 1
            hit += bool(failing.failed)
            how = f"{name}, {'from' if lasting else 'only'} change {at}"
            wrong += [f"{how}: {one}" for one in found]
    return {"changes": changes, "tried": tried, "hit": hit, "wrong": wrong}


def cuts(folder: Path, start: int, stride: int) -> dict[str, Any]:
    """A power cut behind each change of the teaching: what was acknowledged is there."""
    source, target = folder / "source", folder / "cut"
    scenario = fresh(Teaching, source)
    changes: list[Change] = []
    done: list[tuple[int, Any]] = [(0, scenario.facts())]  # changes made, and what is there then

    def note(change: Change) -> int:
        changes.append(change)
        return 0

    for _, step in scenario.steps():
        with watched(source, note):
            step()
        done.append((len(changes), scenario.facts()))
    wrong: list[str] = []
    tried = 0
    replay = Replay(changes, source)
    for upto in range(start, len(changes) + 1, stride):
        before = max(i for i, (made, _) in enumerate(done) if made <= upto)
        allowed = [found for _, found in done[before : before + 2]]
        for seed in range(4):  # nothing unsynced survives, all of it, a half
            chance = np.random.default_rng([upto, seed])
            keep = [lambda _: False, lambda _: True][seed] if seed < 2 else None
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            replay.onto(target, upto, keep or (lambda _, c=chance: bool(c.integers(2))))
            tried += 1
            try:
                found = facts(target / "state")
            except AccrueError as error:
                found = f"{error.kind}: {error}"
            if found not in allowed:
                wrong.append(f"cut behind change {upto}, {seed}: {found}; expected {allowed}")
    return {"changes": len(changes), "tried": tried, "wrong": wrong}


def careless(connect: Callable[..., sqlite3.Connection]) -> Callable[..., Any]:
    """Connections that acknowledge before anything is on the disk."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *more)

    return lambda *words, **more: connect(*words, factory=Connection, **more)


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    start, stride = (int(word) for word in sys.argv[3:5] or ("0", "1"))
    if what == "careless":
        sqlite3.connect = careless(sqlite3.connect)  # type: ignore[assignment]
        found = cuts(folder, start, stride)
    elif what == "cuts":
        found = cuts(folder, start, stride)
    else:
        found = failures(SCENARIOS[what], folder / "run", start, stride)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
