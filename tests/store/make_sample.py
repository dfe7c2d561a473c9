"""Writes tests/data/store/v<N>/: a database, a backup of it and what both hold.

Run it once for each released version, and never again for an old one:
`python tests/store/make_sample.py tests/data/store/v1`
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

from accrue.store import Store, backup
from accrue.sync.ledger import Heard
from accrue.sync.shelf import StoreLedger


def fill(store: Store) -> None:
    """One of everything: kept, folded, merged, renamed, by name, relabelled, removed, undone."""

    def teach(name: str, value: int, shots: int = 1) -> list[str]:
        teaching = store.begin_teach(name, actor="sample")
        rows = np.array([[value, 1, -2, 3], [-value, 5, 8, -13]], np.int16)
        return [
            store.add_shot(teaching, rows, source=f"{name}.jpg", thumb=b"\xff\xd8 thumb")
            for _ in range(shots)
        ]

    first, _, _ = teach("Bolt", 32767, shots=3)
    teach("Schraubenmutter ÄÖ", 7)
    store.rename("schraubenmutter äö", "Nut")
    teach("folded", 11, shots=2)
    store.set_retention("folded", retain="statistics", budget=10)
    store.relabel([first], "stud", actor="sample")
    store.merge("stud", "Bolt")
    store.teach_by_name("Washer", np.array([1, -2, 3, 32767], np.int16))
    store.teach_by_name("nut", np.array([5, 6, 7, 8], np.int16), prompt="a photo of a nut")
    store.disable("washer")
    teach("gone", 13)
    store.remove("gone")
    teach("undone", 17)
    store.undo()


def join(store: Store, other: Store) -> None:
    """In a fleet, of which one more device has taught."""
    ledgers = []
    for one, device in ((store, "0" * 12), (other, "1" * 12)):
        one.join_fleet("sample", device)
        ledgers.append(StoreLedger(one, lambda revision, data: bytes(64)))
        ledgers[-1].catch_up()
    teaching = other.begin_teach("Bolt")
    other.add_shot(teaching, np.array([[1, 2, 3, 4]], np.int16))
    said = [ledgers[1].own(class_id) for class_id in ledgers[1].owned()]
    ledgers[0].hear([Heard(one.contribution, one.envelope, one.parts) for one in said])
    assert ledgers[0].check() == []


def facts(store: Store) -> dict[str, object]:
    """What every later version must read from the sample."""
    return {
        "space_id": store.space_id,
        "dim": store.dim,
        "class_set": store.class_set,
        "classes": [
            [row.id, row.name, list(row.aliases), row.shots, row.rows, row.folded_rows]
            for row in store.classes()
        ],
        "digests": {one.name: one.statistics().digest() for one in store.rows_by_class()},
        "shots": [[shot.id, shot.source, shot.has_thumb] for shot in store.shots()],
        "devices": [shot.device for shot in store.shots()],
        "by_name": [
            [one.name, row.prompt, one.text.tolist()]
            for one, row in zip(store.rows_by_class(), store.classes(), strict=True)
            if one.text is not None
        ],
        "disabled": [row.name for row in store.classes() if row.disabled],
        "history": [[entry.seq, entry.verb, entry.summary] for entry in store.history()],
    }


def main(target: Path) -> None:
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        times = iter(range(1_767_225_600, 1_800_000_000))
        with Store.open(
            folder, space_id="5" * 64, dim=4, clock=lambda: float(next(times))
        ) as store:
            fill(store)
            with Store.open(
                Path(folder, "other"), space_id="5" * 64, dim=4, clock=lambda: float(next(times))
            ) as other:
                join(store, other)
            found = facts(store)
        with closing(sqlite3.connect(Path(folder, "state.db"), isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA page_size = 512")
            db.execute("VACUUM")
        with Store.open(folder) as store:
            backup(store, target / "backup.accrue", clock=lambda: 1_767_300_000.0)
        (target / "state.db").write_bytes(Path(folder, "state.db").read_bytes())
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (target / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
