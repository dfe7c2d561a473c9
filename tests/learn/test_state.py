"""A state is what was taught and is still there, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import OTHER_SPACE, SPACE, classes, taught

from accrue.errors import FormatError, NotFound, RowsError, SpaceMismatch
from accrue.learn import ROW_LIMIT, State, Statistics, quantise

DIM = 3
NAMES = ["a", "b", "é", "Z"]
POOL = quantise(np.random.default_rng(0).normal(size=(12, DIM)))
quick = settings(deadline=None, max_examples=60)
lessons = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, len(POOL) - 1)), max_size=14)


def row(i: int) -> np.ndarray:
    return POOL[i : i + 1]


def learned(told: list[tuple[str, int]]) -> State:
    state = State(SPACE, DIM)
    for class_id, i in told:
        state.add(class_id, row(i))
    return state


def consistent(state: State) -> None:
    """The total is the sum of the classes, and the square sum its trace."""
    total = sum((state.statistics(c) for c in state), Statistics.zeros(state.dim))
    np.testing.assert_array_equal(state.total, total.S)
    assert state.square_sum == total.S.trace()
    assert state.n == total.n


@quick
@given(lessons, st.data())
def test_any_order_batches_and_merge_tree_give_the_same_digest(
    told: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Lessons in any order, on any number of devices merged in any tree, are the same state."""
    devices = [State(SPACE, DIM) for _ in range(data.draw(st.integers(1, 4)))]
    for class_id, i in data.draw(st.permutations(told)):
        device = devices[data.draw(st.integers(0, len(devices) - 1))]
        if data.draw(st.booleans()):
            device.add(class_id, row(i))
        else:
            device.add_statistics(class_id, Statistics.of(row(i)))
    while len(devices) > 1:
        other = devices.pop(data.draw(st.integers(0, len(devices) - 1)))
        devices[0].merge(other)
    expected = learned(told)
    assert devices[0].digest() == expected.digest()
    assert devices[0].to_bytes() == expected.to_bytes()
    consistent(devices[0])


@quick
@given(lessons, lessons, st.data())
def test_what_is_taken_away_again_leaves_no_trace(
    told: list[tuple[str, int]], passing: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Any interleaving of lessons with others that are undone ends in the same state."""
    state = State(SPACE, DIM)
    events = data.draw(st.permutations([(*t, False) for t in told] + [(*t, True) for t in passing]))
    undone: list[tuple[str, int]] = []
    for class_id, i, undo in events:
        state.add(class_id, row(i))
        if undo:
            undone.append((class_id, i))
        if undone and data.draw(st.booleans()):
            state.subtract(undone[-1][0], row(undone.pop()[1]))
        if data.draw(st.booleans()):
            _ = state.total
    for class_id, i in undone:
        state.subtract(class_id, row(i))
    assert state.digest() == learned(told).digest()
    consistent(state)


@quick
@given(lessons, st.sampled_from(NAMES), st.booleans())
def test_class_removed_equals_class_never_taught(
    told: list[tuple[str, int]], gone: str, folded: bool
) -> None:
    """A removed class leaves the bytes of a state that never saw it, pending rows or not."""
    state = learned([*told, (gone, 0)])
    if folded:
        state.add_statistics(gone, Statistics.of(POOL[:3]))
    held = state.statistics(gone)
    assert state.remove(gone) == held
    expected = learned([lesson for lesson in told if lesson[0] != gone])
    assert state.to_bytes() == expected.to_bytes()
    assert gone not in state
    consistent(state)


def test_many_rows_pass_through_the_waiting_block() -> None:
    """The total is exact across the block in which rows wait, also after a removal in between."""
    rng = np.random.default_rng(3)
    state = State(SPACE, DIM)
    a, b = quantise(rng.normal(size=(400, DIM))), quantise(rng.normal(size=(100, DIM)))
    state.add("b", b)
    for one in a:
        state.add("a", one[None])
    state.remove("b")
    consistent(state)
    assert state.digest() == taught({"a": a}, DIM).digest()


@quick
@given(lessons)
def test_statistics_in_place_of_rows_predict_and_digest_alike(told: list[tuple[str, int]]) -> None:
    """A class given as sums is the class given as rows."""
    rows = learned(told)
    folded = State(SPACE, DIM)
    for class_id in rows:
        folded.add_statistics(class_id, rows.statistics(class_id))
        assert folded.class_digest(class_id) == rows.class_digest(class_id)
        assert len(folded.kept(class_id)) == 0
    assert folded.digest() == rows.digest()
    consistent(folded)


def test_rows_can_be_taken_from_a_folded_class() -> None:
    """A row inside sums is taken away by subtraction, kept rows and sums together."""
    state = State(SPACE, DIM)
    state.add_statistics("a", Statistics.of(POOL[:4]))
    state.add("a", POOL[4:6])
    state.subtract("a", POOL[3:5])
    expected = taught({"a": np.concatenate([POOL[:3], POOL[5:6]])}, DIM)
    assert state.digest() == expected.digest()
    consistent(state)
    state.subtract("a", np.concatenate([POOL[:3], POOL[5:6]]))
    assert state.digest() == State(SPACE, DIM).digest()


def test_kept_rows_are_the_rows_in_an_order_of_their_own() -> None:
    """Kept rows come back whatever the order in which they came."""
    a, b = learned([("a", 1), ("a", 2), ("a", 1)]), learned([("a", 2), ("a", 1), ("a", 1)])
    np.testing.assert_array_equal(a.kept("a"), b.kept("a"))
    assert sorted(a.kept("a").tolist()) == sorted(POOL[[1, 1, 2]].tolist())


def test_classes_come_in_the_order_of_their_bytes() -> None:
    """Iteration, counts and sums follow the UTF-8 bytes of the ids."""
    state = learned([("é", 0), ("Z", 1), ("a", 2), ("a", 3), ("\U0001f529", 1), ("\uffff", 1)])
    assert list(state) == ["Z", "a", "é", "\uffff", "\U0001f529"]
    assert state.counts().tolist() == [1, 2, 1, 1, 1]
    np.testing.assert_array_equal(state.sums()[1], state.sum("a"))


def test_merge_with_itself_doubles() -> None:
    """Merging a state with itself teaches everything twice."""
    told = [("a", 1), ("b", 2)]
    state = learned(told)
    state.add_statistics("b", Statistics.of(POOL[:2]))
    state.merge(state)
    expected = learned(told * 2)
    expected.add("b", np.concatenate([POOL[:2], POOL[:2]]))
    assert state.digest() == expected.digest()


def test_merge_leaves_the_other_alone() -> None:
    """Later lessons on one side do not reach the other through a merge."""
    a, b = learned([("a", 1)]), learned([("b", 2)])
    b.add_statistics("b", Statistics.of(POOL[:2]))
    before = b.digest()
    a.merge(b)
    a.add("b", POOL[:1])
    a.add_statistics("b", Statistics.of(POOL[:1]))
    assert b.digest() == before
    consistent(a)


def test_other_space_is_refused() -> None:
    """States of two encoders never mix, even at the same dimension."""
    state, other = learned([("a", 1)]), State(OTHER_SPACE, DIM)
    before = state.digest()
    with pytest.raises(SpaceMismatch) as refused:
        state.merge(other)
    assert str(refused.value) == (
        "state of space a0a0a0a0a0a0 (3-d) cannot be added to one of space 5e5e5e5e5e5e (3-d); "
        "teach both with the same encoder bundle"
    )
    with pytest.raises(SpaceMismatch):
        state.merge(State(SPACE, DIM + 1))
    assert state.digest() == before


def test_digest_tells_spaces_and_dimensions_apart() -> None:
    """Empty states of other spaces or dimensions have other digests."""
    empty = [State(SPACE, 3), State(SPACE, 4), State(OTHER_SPACE, 3)]
    assert len({state.digest() for state in empty}) == 3


def test_class_digest_does_not_depend_on_the_name() -> None:
    """The digest of a class is of its sums; the digest of the state is of the names too."""
    a, b = learned([("a", 1)]), learned([("b", 1)])
    assert a.class_digest("a") == b.class_digest("b")
    assert a.digest() != b.digest()


def test_class_digest_is_of_what_the_class_holds_now() -> None:
    """A digest that was asked for before a change is not told after it."""
    state = learned([("a", 1)])
    seen = {state.class_digest("a")}
    state.add("a", row(2))
    seen.add(state.class_digest("a"))
    state.add_statistics("a", Statistics.of(row(3)))
    seen.add(state.class_digest("a"))
    state.subtract("a", row(2))
    seen.add(state.class_digest("a"))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((1, 2), np.int16), "rows of shape (1, 2); expected (n, 3)"),
        (np.ones((1, 3)), "rows of dtype float64; expected int16 as quantise() makes them"),
    ],
)
def test_wrong_rows_change_nothing(rows: np.ndarray, text: str) -> None:
    """Rows of another dimension or dtype are refused and leave the state as it was."""
    state = learned([("a", 1)])
    before = state.digest()
    for change in (state.add, state.subtract):
        with pytest.raises(RowsError) as refused:
            change("a", rows)
        assert str(refused.value) == text
    with pytest.raises(RowsError):
        state.add("new", rows)
    assert state.digest() == before


def test_rows_never_taught_are_not_taken_away() -> None:
    """Taking away rows that a class does not hold is refused and changes nothing."""
    state = learned([("a", 1), ("a", 1), ("a", 2)])
    before = state.to_bytes()
    with pytest.raises(RowsError) as refused:
        state.subtract("a", POOL[[1, 1, 1, 3]])
    assert str(refused.value) == "2 rows to take away were never added to this class"
    state.add_statistics("b", Statistics.of(POOL[:2]))
    with pytest.raises(RowsError) as refused:
        state.subtract("b", POOL[:3])
    assert str(refused.value) == "3 rows to take away were never part of this sum of 2 rows"
    state.remove("b")
    assert state.to_bytes() == before
    consistent(state)


def test_unknown_class_is_not_found() -> None:
    """Asking for a class that was never taught, or was removed, says so."""
    state = learned([("a", 1)])
    for ask in (state.remove, state.statistics, state.kept, state.sum, state.class_digest):
        with pytest.raises(NotFound) as missing:
            ask("b")
        assert str(missing.value) == "no class 'b' in this state"
    with pytest.raises(NotFound):
        state.subtract("b", row(1))
    assert state.count("b") == 0


@pytest.mark.parametrize(
    ("class_id", "text"),
    [
        ("", "class id of 0 characters; expected 1 to 65,535 bytes"),
        ("é" * 32_768, "class id of 32768 characters; expected 1 to 65,535 bytes"),
        ("\udcff", r"class id '\udcff'; expected text that UTF-8 can hold"),
    ],
)
def test_ids_that_the_format_cannot_hold_are_refused(class_id: str, text: str) -> None:
    """An id that would not fit the bytes is refused when it is taught, not when it is saved."""
    state = State(SPACE, DIM)
    for teach in (
        lambda: state.add(class_id, row(1)),
        lambda: state.add_statistics(class_id, Statistics.of(row(1))),
    ):
        with pytest.raises(RowsError) as refused:
            teach()
        assert str(refused.value) == text
    assert state.digest() == State(SPACE, DIM).digest()
    state.add("x" * 65_535, row(1))
    assert State.from_bytes(state.to_bytes()).digest() == state.digest()


def test_no_rows_teach_nothing() -> None:
    """Adding no rows, or sums of none, makes no class."""
    state = State(SPACE, DIM)
    state.add("a", POOL[:0])
    state.add_statistics("a", Statistics.zeros(DIM))
    assert len(state) == 0


def test_row_limit_counts_all_classes() -> None:
    """The limit of 2**23 rows is on all classes together."""
    state = learned([("a", 1)])
    full = Statistics(ROW_LIMIT, np.zeros(DIM), np.zeros((DIM, DIM)))
    with pytest.raises(RowsError, match=r"^8,388,609 rows; at most 8,388,608"):
        state.add_statistics("b", full)
    state.remove("a")
    state.add_statistics("b", full)
    with pytest.raises(RowsError, match=r"^8,388,609 rows"):
        state.add("b", row(1))
    with pytest.raises(RowsError, match=r"^8,388,609 rows"):
        state.merge(learned([("a", 1)]))
    assert list(state) == ["b"]


def test_statistics_of_another_dimension_are_refused() -> None:
    """Sums of another dimension do not come in."""
    with pytest.raises(RowsError) as refused:
        State(SPACE, DIM).add_statistics("a", Statistics.zeros(DIM + 1))
    assert str(refused.value) == "statistics of dimension 4; expected 3"


@pytest.mark.parametrize("space", ["", "5E" * 32, "g" * 64, "5e" * 31])
def test_space_ids_are_64_lower_case_hex_characters(space: str) -> None:
    """Anything but 64 lower-case hex characters is no space id."""
    with pytest.raises(FormatError) as refused:
        State(space, DIM)
    assert str(refused.value) == f"space id {space!r}; expected 64 hex characters"


@pytest.mark.parametrize("dim", [0, -1, 65_537])
def test_dimensions_out_of_range_are_refused(dim: int) -> None:
    """A dimension outside 1 to 65,536 is refused."""
    with pytest.raises(FormatError) as refused:
        State(SPACE, dim)
    assert str(refused.value) == f"dimension {dim}; expected 1 to 65,536"


def test_input_arrays_are_copied() -> None:
    """Writing to rows after they were taught changes nothing that was learned."""
    rows = classes({"a": 5}, DIM)["a"]
    state = taught({"a": rows}, DIM)
    before, total = state.digest(), taught({"a": rows.copy()}, DIM).total
    rows[:] = 0
    np.testing.assert_array_equal(state.total, total)
    assert state.digest() == before


@quick
@given(lessons, lessons, lessons)
def test_a_copy_and_its_original_go_their_own_ways(
    told: list[tuple[str, int]], here: list[tuple[str, int]], there: list[tuple[str, int]]
) -> None:
    """What is added, taken away or folded in one is not seen in the other, nor in a third."""
    original = learned(told)
    copy = original.copy()
    third = copy.copy()
    for state, lesson in ((original, here), (copy, there)):
        for class_id, i in lesson:
            state.add(class_id, row(i))
            state.add_statistics(class_id, Statistics.of(row(i)))
        for class_id, i in lesson[1:]:
            state.subtract(class_id, row(i))
        if told:
            state.remove(told[0][0])
    for state, lesson in ((original, here), (copy, there)):
        expected = learned(told)
        for n, (class_id, i) in enumerate(lesson):
            expected.add(class_id, np.concatenate([row(i)] * (2 if n == 0 else 1)))
        if told:
            expected.remove(told[0][0])
        assert state.digest() == expected.digest()
        consistent(state)
    assert third.digest() == learned(told).digest()
    consistent(third)
