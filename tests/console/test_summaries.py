"""The history speaks the operator's language: whatever the store writes is taken apart and said."""

from __future__ import annotations

import numpy as np
import pytest

from accrue.service.console.summaries import said
from accrue.service.console.words import LANGUAGES, Words
from accrue.store import Store
from accrue.sync.ledger import Heard
from accrue.sync.shelf import StoreLedger

SPACE = "5" * 64
NAMES = ("bolt", 'the "best" nut: 3 shots', "齿轮 to x", "ترس")


def rows(seed: int, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32767, 32768, (2, dim)).astype(np.int16)


def teach(store: Store, name: str, shots: int) -> list[str]:
    teaching = store.begin_teach(name)
    return [store.add_shot(teaching, rows(n + len(name), store.dim)) for n in range(shots)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A summary of every form that store and fleet write, of names that are hard to take apart."""
    folder = tmp_path_factory.mktemp("all")
    with (
        Store.open(folder / "one", space_id=SPACE, dim=64, memory=40 * 256) as small,
        Store.open(folder / "two", space_id=SPACE, dim=4) as store,
        Store.open(folder / "three", space_id=SPACE, dim=4) as other,
    ):
        for n in range(120):
            teach(small, NAMES[n % 4], 1)
        for name in NAMES:
            shots = teach(store, name, 4)
            store.teach_by_name(name, rows(1)[0])
            store.teach_by_name(name, rows(1)[0], prompt=f"a photo of {name}")
            store.refuse(name, [("x", rows(2))])
            store.refuse(name, [("x", rows(2)), ("y", rows(3))])
            store.allow([store.refusals(name)[0].id])
            store.allow([one.id for one in store.refusals(name)])
            store.rename(name, f"{name} anew")
            store.disable(name)
            store.enable(name)
            store.split(name, shots[:1], f"{name} apart")
            store.relabel(shots[1:3], f"{name} apart")
            store.merge(name, f"{name} apart")
            undone = store.undo()
            store.undo(undone.seq)
            store.set_retention(name, budget=700)
            store.set_retention(name, retain="statistics")
        store.remove("bolt")
        store.purge(NAMES[1])
        ledgers = []
        for one, device in ((store, "0" * 12), (other, "1" * 12)):
            one.join_fleet("sample", device)
            ledgers.append(StoreLedger(one, lambda revision, data: bytes(64)))
            ledgers[-1].catch_up()

        def hear() -> None:
            found = [ledgers[1].own(class_id) for class_id in ledgers[1].owned()]
            ledgers[0].hear([Heard(o.contribution, o.envelope, o.parts) for o in found])

        for n in range(9):
            teach(other, f"of others {n}", 1 + n % 2)
        hear()
        other.rename("of others 1", "renamed")
        other.remove("of others 2")
        hear()
        return [entry.summary for one in (small, store, other) for entry in one.history()]


def test_english_says_it_as_the_journal_has_it(written: list[str]) -> None:
    assert {one.split()[0] for one in written} >= {
        *("taught", "renamed", "removed", "relabelled", "split", "merged", "noted", "took"),
        *("set", "disabled", "enabled", "forgot", "purged", "undid", "brought", "received"),
    }
    for summary in written:
        if summary.endswith("of a class since purged"):
            assert said(Words("en"), summary) == "of a class since purged"
        else:
            assert said(Words("en"), summary) == summary


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_every_language_has_words_for_all_of_it_and_leaves_names_as_they_are(
    written: list[str], language: str
) -> None:
    for summary in written:
        told = said(Words(language), summary)
        assert told is not None
        assert told != summary, summary
        assert "{" not in told
        for name in NAMES:
            assert told.count(name) == summary.count(name)


@pytest.mark.parametrize(
    ("summary", "german"),
    [
        ("installed manifest 7", "Version 7 des Besitzers übernommen"),
        (
            'installed manifest 7: "bolt" +1,200 shots, "nut" new and 4 more',
            'Version 7 des Besitzers übernommen: "bolt" +1200 Aufnahmen, "nut" neu und 4 weitere',
        ),
        ("left the owner's set", "den Klassensatz des Besitzers verlassen"),
        ("the owner opened the class set", "der Besitzer hat den Klassensatz freigegeben"),
        ("undid entry 12: joined", "Eintrag 12 zurückgenommen: beigetreten"),
        ("what no version has written yet", None),
        ("undid entry 12: what no version has written yet", None),
        ("", None),
    ],
)
def test_what_a_fleet_does_is_said_too_and_what_is_not_known_is_left(
    summary: str, german: str | None
) -> None:
    assert said(Words("de"), summary) == german


def test_a_line_that_was_made_to_be_hard_takes_no_time() -> None:
    hard = "received from x: " + '"a" new, ' * 12 + '"' * 40 + "!"
    assert said(Words("de"), hard) is None
