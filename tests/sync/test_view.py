"""The rules of the view, one at a time."""

from __future__ import annotations

import itertools

import pytest
from fleet_cases import (
    DEVICES,
    NOW_MS,
    SCOPE,
    bodies,
    exchange,
    ledger,
    require_same,
    rows,
    tell,
    unhurried,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from accrue.errors import Conflict, FormatError, NotFound, Rejected
from accrue.store.names import class_id
from accrue.sync.contribution import Contribution, Fact, Member, Part, Scope, Value
from accrue.sync.parts import hash_of, pack_rows
from accrue.sync.replica import MemoryLedger, Replica
from accrue.sync.view import Index, view

A, B, C, D = DEVICES
BOLT, NUT, GEAR = (class_id("default", name) for name in ("bolt", "nut", "gear"))
ROW = pack_rows(rows(1))
NAMES = {BOLT: "bolt", NUT: "nut", GEAR: "gear"}


def says(
    device: str,
    about: str,
    facts: dict[str, tuple[int, Value]] | None = None,
    shots: dict[str, int] | None = None,
    gone: dict[str, int] | None = None,
    revision: int = 100,
) -> Contribution:
    """A contribution with small stamps; shots are in one part each."""
    listed = tuple(
        Part(hash_of(ROW), len(ROW), "rows", (Member(f"shot/{shot}", 1, NOW_MS, stamp),))
        for shot, stamp in (shots or {}).items()
    )
    said = {subject: Fact(*fact) for subject, fact in (facts or {}).items()}
    return Contribution(SCOPE, device, about, revision, said, gone or {}, listed)


def label(about: str, stamp: int, text: str = "") -> dict[str, tuple[int, Value]]:
    text = text or NAMES[about]
    return {f"label/{text.casefold()}": (stamp, (about, text))}


def test_1_the_newest_fact_wins_and_of_two_at_once_that_of_the_greater_device() -> None:
    shot = says(A, BOLT, shots={"x": 1})
    early, late = says(B, NUT, {"shot/x": (2, NUT)}), says(C, GEAR, {"shot/x": (3, GEAR)})
    assert view([shot, early]).placements["shot/x"].class_id == NUT
    assert view([shot, early, late]).placements["shot/x"].class_id == GEAR
    at_once = says(C, GEAR, {"shot/x": (2, GEAR)})
    assert view([shot, early, at_once]).placements["shot/x"].class_id == GEAR


def test_2_what_a_removal_covers_is_gone_and_what_it_does_not_survives() -> None:
    before, after = says(A, BOLT, shots={"x": 5}), says(A, BOLT, shots={"x": 5, "y": 6})
    removal = says(B, BOLT, gone={A: 5})
    assert view([before, removal]).classes == {}
    assert view([after, removal]).classes[BOLT].shots == ("shot/y",)
    undone = says(B, BOLT, revision=101)
    assert view([after, undone]).classes[BOLT].shots == ("shot/x", "shot/y")


def test_2_a_covered_winner_does_not_give_way_to_an_older_fact() -> None:
    told = [
        says(A, BOLT, shots={"x": 1}),
        says(B, NUT, {"shot/x": (2, NUT)}),
        says(C, NUT, gone={B: 2}),
    ]
    assert view(told).placements == {}


def test_3_a_shot_counts_only_where_its_owner_lists_it() -> None:
    claim = says(B, NUT, {"shot/x": (9, NUT)})
    assert view([claim]).placements == {}
    assert view([claim, says(A, BOLT, shots={"x": 1})]).placements["shot/x"].owner == A
    assert view([claim, says(A, BOLT, revision=101)]).classes == {}


def test_4_a_class_lives_by_a_shot_a_text_or_being_kept_and_by_no_name_alone() -> None:
    assert view([says(A, BOLT, {**label(BOLT, 1), f"name/{BOLT}": (2, "Bolt")})]).classes == {}
    assert BOLT in view([says(A, BOLT, shots={"x": 1})]).classes
    assert BOLT in view([says(A, BOLT, {f"text/{BOLT}": (1, ("a bolt", "AQACAAMA"))})]).classes
    kept = says(A, BOLT, {f"kept/{BOLT}": (1, True)})
    assert BOLT in view([kept]).classes
    assert view([kept, says(B, BOLT, {f"kept/{BOLT}": (2, False)})]).classes == {}


def test_5_a_class_shows_its_name_else_its_oldest_label_else_its_id() -> None:
    shot = says(A, BOLT, shots={"x": 1})
    assert view([shot]).classes[BOLT].name == BOLT
    labels = {**label(BOLT, 3, "Screw"), **label(BOLT, 2)}
    assert view([shot, says(B, BOLT, labels)]).classes[BOLT].name == "bolt"
    found = view([shot, says(B, BOLT, {**labels, f"name/{BOLT}": (4, "M8")})]).classes[BOLT]
    assert (found.name, found.aliases) == ("M8", ("Screw", "bolt"))


def test_5_a_class_whose_name_was_taken_or_removed_still_shows_it() -> None:
    bolt = says(A, BOLT, label(BOLT, 1), {"x": 2})
    taken = says(B, NUT, label(NUT, 3, "bolt"), {"y": 4})
    found = view([bolt, taken])
    assert [found.classes[c].name for c in (BOLT, NUT)] == ["bolt", "bolt"]
    assert found.homonyms == (tuple(sorted((BOLT, NUT))),)
    assert found.find("bolt") == NUT
    survivor = says(A, BOLT, label(BOLT, 1), {"x": 2, "z": 9})
    found = view([survivor, says(C, BOLT, gone={A: 5})])
    assert found.classes[BOLT].name == "bolt"
    assert found.find("bolt") == BOLT


def test_6_the_key_of_a_dead_class_is_free() -> None:
    dead = says(A, BOLT, label(BOLT, 1))
    assert view([dead]).labels == {}
    assert view([dead]).find("bolt") is None


def test_7_of_merges_in_a_circle_the_youngest_is_left_out() -> None:
    shots = [says(A, one, label(one, 1), {one[:4]: 2}) for one in (BOLT, NUT, GEAR)]
    merges = [(BOLT, NUT, 5), (NUT, GEAR, 3), (GEAR, BOLT, 4)]
    told = [says(B, one, {f"merged/{one}": (at, into)}) for one, into, at in merges]
    for order in itertools.permutations(told):
        found = view([*shots, *order])
        assert {c: one.counts_as for c, one in found.classes.items()} == {
            NUT: GEAR,
            GEAR: BOLT,
            BOLT: None,
        }
        assert {found.root(one) for one in found.classes} == {BOLT}


def test_7_a_merge_into_a_class_that_is_not_there_waits_for_it() -> None:
    told = [says(A, BOLT, {f"merged/{BOLT}": (5, NUT)}, {"x": 1})]
    assert view(told).classes[BOLT].counts_as is None
    assert view([*told, says(B, NUT, shots={"y": 1})]).classes[BOLT].counts_as == NUT


def test_8_classes_merged_into_one_are_no_homonyms() -> None:
    two = [
        says(A, BOLT, label(BOLT, 1), {"x": 2}),
        says(B, NUT, {f"name/{NUT}": (3, "BOLT")}, {"y": 4}),
    ]
    assert view(two).homonyms == (tuple(sorted((BOLT, NUT))),)
    merged = says(C, NUT, {f"merged/{NUT}": (5, BOLT)})
    assert view([*two, merged]).homonyms == ()


STAMPS = st.integers(1, 6)
SHOTS = st.dictionaries(st.sampled_from("xyz"), STAMPS, max_size=2)


@st.composite
def contributions(draw: st.DrawFn) -> list[Contribution]:
    """At most one for each device and class, with stamps that collide."""
    found = {}
    for _ in range(draw(st.integers(1, 9))):
        device, about = draw(st.sampled_from(DEVICES)), draw(st.sampled_from([BOLT, NUT, GEAR]))
        others = st.sampled_from([c for c in (BOLT, NUT, GEAR) if c != about])
        shots = {f"{device[-1]}{s}": at for s, at in draw(SHOTS).items()}
        values: dict[str, st.SearchStrategy[Value]] = {
            **{f"shot/{d[-1]}{s}": st.sampled_from([about, None]) for d in DEVICES for s in "xyz"},
            f"name/{about}": st.sampled_from(["bolt", "Nut", None]),
            f"merged/{about}": others,
            f"kept/{about}": st.sampled_from([True, False, None]),
            "label/bolt": st.sampled_from([(about, "bolt"), (about, "Bolt"), None]),
            "label/nut": st.sampled_from([(about, "nut"), None]),
        }
        subjects = draw(st.sets(st.sampled_from(sorted(values)), max_size=4))
        facts = {s: (draw(STAMPS), draw(values[s])) for s in subjects if s[5:] not in shots}
        gone = draw(st.dictionaries(st.sampled_from(DEVICES), STAMPS, max_size=2))
        found[device, about] = says(device, about, facts, shots, gone)
    return list(found.values())


@unhurried
@given(contributions())
def test_any_contributions_are_seen_as_the_second_implementation_sees_them(
    some: list[Contribution],
) -> None:
    replica = Replica(SCOPE)
    for each in some:
        replica.join(each)
    require_same(replica.view(), [each.to_body() for each in some])


@settings(unhurried, max_examples=50)
@given(contributions(), contributions())
def test_an_index_forgets_what_was_replaced_or_dropped(
    before: list[Contribution], after: list[Contribution]
) -> None:
    index = Index(SCOPE)
    for each in [*before, *after]:
        index.put(each)
        index.view()
    keys = {each.key for each in after}
    for each in before:
        if each.key not in keys:
            index.drop(*each.key)
    assert index.view().digest() == view(after, SCOPE).digest()


@settings(unhurried, max_examples=50)
@given(contributions(), contributions())
def test_joining_is_commutative_associative_and_idempotent(
    some: list[Contribution], more: list[Contribution]
) -> None:
    newer = [Contribution(**{**vars_of(each), "revision": 101}) for each in more]
    stream = [*some, *newer]
    replicas = [Replica(SCOPE) for _ in range(3)]
    for each in stream:
        replicas[0].join(each)
    for each in [*reversed(stream), *stream]:
        replicas[1].join(each)
    for each in [*newer, *some, *some]:
        replicas[2].join(each)
    assert len({replica.fingerprint() for replica in replicas}) == 1
    assert len({replica.view().digest() for replica in replicas}) == 1


def vars_of(one: Contribution) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_two_contributions_of_one_revision_end_the_same_in_either_order() -> None:
    one, other = says(A, BOLT, shots={"x": 1}), says(A, BOLT, shots={"y": 1})
    first, second = Replica(SCOPE), Replica(SCOPE)
    for replica, order in ((first, (one, other)), (second, (other, one))):
        for each in order:
            replica.join(each)
    assert first.fingerprint() == second.fingerprint()


def test_an_older_revision_or_another_scope_is_not_joined() -> None:
    replica = Replica(SCOPE)
    assert replica.join(says(A, BOLT, shots={"x": 1}))
    assert not replica.join(says(A, BOLT, shots={"x": 1}))
    assert not replica.join(says(A, BOLT, revision=99))
    elsewhere = Contribution(Scope("barn", "default", SCOPE.space, 3), A, NUT, 1)
    with pytest.raises(Rejected) as caught:
        replica.join(elsewhere)
    assert caught.value.reason == "wrong-scope"


def test_forgetting_a_device_takes_back_what_it_removed_too() -> None:
    a, b = ledger(A), ledger(B)
    a.teach("bolt", rows(1))
    exchange(a, b)
    b.remove("bolt")
    b.teach("nut", rows(2))
    exchange(a, b)
    assert [one.name for one in a.view().classes.values()] == ["nut"]
    a.forget(B)
    assert [one.name for one in a.view().classes.values()] == ["bolt"]
    assert a.revisions() == {}


# ---- verbs of the light device -----------------------------------------------------------------


def names(of: MemoryLedger) -> list[str]:
    return sorted(one.name for one in of.view().classes.values())


def test_a_name_that_the_fleet_knows_teaches_the_class_that_it_leads_to() -> None:
    a, b = ledger(A), ledger(B)
    a.teach("hex bolt", rows(1))
    a.rename("hex bolt", "M8")
    exchange(a, b)
    b.teach("HEX BOLT", rows(2))
    exchange(a, b)
    assert names(a) == names(b) == ["M8"]
    assert a.state().n == b.state().n == 2


def test_a_shot_of_another_can_be_moved_and_taken_away_and_that_undone() -> None:
    a, b = ledger(A), ledger(B)
    shot = a.teach("bolt", rows(1))
    exchange(a, b)
    b.relabel(shot, "nut")
    exchange(a, b)
    assert names(a) == names(b) == ["nut"]
    b.take_away(shot)
    exchange(a, b)
    assert names(a) == names(b) == []
    b.undo()
    b.undo()
    exchange(a, b)
    assert names(a) == names(b) == ["bolt"]


def test_what_was_taught_while_another_removed_the_class_survives() -> None:
    a, b = ledger(A), ledger(B)
    a.teach("bolt", rows(1))
    exchange(a, b)
    b.remove("bolt")
    a.teach("bolt", rows(2))
    exchange(a, b)
    assert names(a) == names(b) == ["bolt"]
    assert a.state().n == 1
    b.undo()
    exchange(a, b)
    assert a.state().n == b.state().n == 2


def test_a_class_that_was_removed_everywhere_is_taught_afresh() -> None:
    a, b = ledger(A), ledger(B)
    a.teach("bolt", rows(1))
    b.teach("bolt", rows(2))
    exchange(a, b)
    a.remove("bolt")
    exchange(a, b)
    b.teach("bolt", rows(3))
    exchange(a, b)
    assert a.state().n == b.state().n == 1
    assert names(a) == ["bolt"]


def test_a_folded_sum_counts_like_its_shots() -> None:
    a, b = ledger(A), ledger(B)
    for seed in range(4):
        a.teach("bolt", rows(seed, 2))
    before = a.state().digest()
    a.fold("bolt")
    exchange(a, b)
    assert a.state().digest() == b.state().digest() == before
    assert b.view().classes[BOLT].shots == ()


def test_verbs_say_what_does_not_fit() -> None:
    a = ledger(A)
    a.teach("bolt", rows(1))
    a.teach("nut", rows(2))
    with pytest.raises(NotFound, match="no class 'gear'"):
        a.rename("gear", "spur gear")
    with pytest.raises(Conflict, match="name 'nut' is taken"):
        a.rename("bolt", "nut")
    with pytest.raises(Conflict, match="is 'bolt' already"):
        a.merge("bolt", "bolt")
    with pytest.raises(NotFound, match="nothing said about class"):
        a.own(GEAR)
    with pytest.raises(NotFound, match="nothing to undo"):
        ledger(B).undo()
    with pytest.raises(FormatError, match="device id 'dock-3'"):
        ledger("dock-3")


def test_a_newer_revision_stays_unsent_when_an_older_one_is_acknowledged() -> None:
    a = ledger(A)
    a.teach("bolt", rows(1))
    first = a.own(BOLT).contribution.revision
    a.teach("bolt", rows(2))
    a.acknowledge(BOLT, first)
    assert a.unsent() == [BOLT]
    a.acknowledge(BOLT, a.own(BOLT).contribution.revision)
    assert a.unsent() == []


def test_bytes_that_nobody_lists_any_more_are_dropped() -> None:
    a, b = ledger(A), ledger(B)
    shot = a.teach("bolt", rows(1))
    (sha256,) = a.own(BOLT).parts
    tell(b, a.own(BOLT))
    assert b.has_part(sha256)
    a.take_away(shot)
    tell(b, a.own(BOLT))
    assert not a.has_part(sha256)
    assert not b.has_part(sha256)


def test_a_view_of_nothing_is_empty_and_has_no_state_without_a_scope() -> None:
    assert view([]).digest() == view([], SCOPE).digest()
    assert len(view([], SCOPE).state({})) == 0
    with pytest.raises(NotFound):
        view([]).state({})
    a = ledger(A)
    a.teach("bolt", rows(1))
    with pytest.raises(NotFound, match=r"part .* is missing"):
        a.view().state({})


class _Counting(Index):
    settled = 0

    def _settle(self, subject: str) -> None:
        self.settled += 1
        super()._settle(subject)


def test_a_change_among_many_contributions_costs_what_it_changes() -> None:
    index = _Counting(SCOPE)
    for device in range(20):
        for one in range(10):
            about = class_id("default", f"class {one}")
            shots = {f"{device}-{one}-{s}": 5 for s in range(5)}
            index.put(says(f"{device:012}", about, shots=shots))
    assert index.settled == len(index.view().placements) == 1_000
    about = class_id("default", "class 7")
    shots = {f"3-7-{s}": 5 for s in range(6)}
    index.put(says(f"{3:012}", about, shots=shots, revision=200))
    assert index.settled == 1_001
    index.put(says(f"{4:012}", about, gone={f"{3:012}": 9}, revision=200))
    assert index.settled == 1_001 + 5 + 6
    assert len(index.view().placements) == 1_001 - 5 - 6


def test_bodies_of_a_ledger_are_what_its_view_is_made_of() -> None:
    a = ledger(A)
    a.teach("bolt", rows(1))
    a.teach("nut", rows(2))
    a.merge("nut", "bolt")
    require_same(a.view(), bodies(a))
