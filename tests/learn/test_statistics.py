"""The sums are exact integers, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
import second_implementation as two
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accrue.errors import RowsError
from accrue.learn import ROW_LIMIT, SCALE, Statistics, check_rows, quantise
from accrue.learn.statistics import LARGEST

quick = settings(deadline=None, max_examples=60)
value = st.integers(-LARGEST, LARGEST)


def some_rows(dim: int, most: int = 10) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, most).flatmap(lambda n: hnp.arrays(np.int16, (n, dim), elements=value))


@quick
@given(st.integers(1, 6).flatmap(some_rows))
def test_sums_equal_big_integers(rows: np.ndarray) -> None:
    """n, s and S are what Python's unbounded integers add up to."""
    found = Statistics.of(rows)
    expected = two.sums(rows.tolist(), rows.shape[1])
    assert found.n == expected.n
    assert found.s.tolist() == expected.s
    assert found.S[np.triu_indices(found.dim)].tolist() == expected.upper
    np.testing.assert_array_equal(found.S, found.S.T)


def test_sums_of_extreme_rows_are_exact_over_several_blocks() -> None:
    """Ten thousand rows at the ends of the range are summed without rounding."""
    rows = np.full((10_001, 3), LARGEST, np.int16)
    rows[::2, 1] = -LARGEST
    found = Statistics.of(rows)
    assert found.s.tolist() == [10_001 * LARGEST, -LARGEST, 10_001 * LARGEST]
    square = LARGEST**2
    assert found.S.tolist() == [
        [10_001 * square, -square, 10_001 * square],
        [-square, 10_001 * square, -square],
        [10_001 * square, -square, 10_001 * square],
    ]


@quick
@given(st.data())
def test_any_order_and_split_gives_the_same_bytes(data: st.DataObject) -> None:
    """Permuting rows and adding them in parts, in any tree, changes no byte."""
    rows = data.draw(some_rows(3))
    order = data.draw(st.permutations(range(len(rows))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [Statistics.of(part) for part in np.split(rows[list(order)], cuts)]
    while len(parts) > 1:
        a = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        b = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(a + b)
    assert parts[0].to_bytes() == Statistics.of(rows).to_bytes()
    assert parts[0].digest() == Statistics.of(rows).digest()


@quick
@given(st.integers(1, 4).flatmap(lambda d: st.tuples(some_rows(d), some_rows(d))))
def test_subtraction_undoes_addition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """What is added and taken away again leaves no trace."""
    a, b = Statistics.of(pair[0]), Statistics.of(pair[1])
    assert (a + b) - b == a
    assert ((a + b) - a) - b == Statistics.zeros(a.dim)


@quick
@given(st.integers(1, 5).flatmap(some_rows))
def test_bytes_round_trip(rows: np.ndarray) -> None:
    """Reading what was written gives the same sums and the same bytes."""
    found = Statistics.of(rows)
    read = Statistics.from_bytes(found.to_bytes())
    assert read == found
    assert read.to_bytes() == found.to_bytes()


def test_statistics_are_not_equal_to_something_else() -> None:
    """Equality compares the sums and nothing but statistics."""
    found = Statistics.of(quantise(np.eye(2)))
    assert found != Statistics.of(quantise(np.eye(2)[:1]))
    assert found != "statistics"


def test_more_than_the_row_limit_is_refused() -> None:
    """At 2**23 rows the next one is refused, because float64 would no longer be exact."""
    full = Statistics(ROW_LIMIT, np.zeros(2), np.zeros((2, 2)))
    with pytest.raises(RowsError) as refused:
        full + Statistics.of(quantise(np.eye(2)[:1]))
    assert str(refused.value) == (
        "8,388,609 rows; at most 8,388,608 (2**23) can be summed exactly; split the class set"
    )
    assert refused.value.fields == {"found": ROW_LIMIT + 1, "expected": ROW_LIMIT}
    assert (full + Statistics.zeros(2)).n == ROW_LIMIT


def test_the_largest_sums_are_exact_and_readable() -> None:
    """2**23 equal rows at the ends of the range stay below 2**53 and survive the bytes."""
    square = float(ROW_LIMIT * LARGEST**2)
    assert square < 2**53
    found = Statistics(ROW_LIMIT, np.full(2, -float(ROW_LIMIT * LARGEST)), np.full((2, 2), square))
    assert Statistics.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(
    ("taken", "text"),
    [
        ([[1.0, 0.0]], "1 rows to take away were never part of this sum of 2 rows"),
        ([[0.0, 1.0]] * 3, "3 rows to take away were never part of this sum of 2 rows"),
    ],
)
def test_rows_that_were_never_added_are_not_taken_away(taken: list[list[float]], text: str) -> None:
    """Taking away what cannot have been part of a sum is refused."""
    held = Statistics.of(quantise(np.array([[0.0, 1.0], [0.0, -1.0]])))
    with pytest.raises(RowsError) as refused:
        held - Statistics.of(quantise(np.array(taken)))
    assert str(refused.value) == text


def test_other_dimensions_do_not_mix() -> None:
    """Sums of two dimensions are neither added nor subtracted."""
    for combine in (Statistics.__add__, Statistics.__sub__):
        with pytest.raises(RowsError) as refused:
            combine(Statistics.zeros(2), Statistics.zeros(3))
        assert str(refused.value) == "statistics of dimension 3; expected 2"


@quick
@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(-1, 1, width=32)),
    st.floats(2.0**-1000, 2.0**1000),
)
def test_quantise_takes_directions_only(x: np.ndarray, factor: float) -> None:
    """Rows of any length give the int16 of their unit vector, to half a step."""
    x[:, 0] += 2.0
    rows = quantise(x)
    exact = x / np.linalg.norm(x, axis=1, keepdims=True) * SCALE
    assert rows.dtype == np.int16
    assert np.abs(rows - np.minimum(exact, LARGEST)).max() <= 0.5 + 1e-9
    near = np.abs(quantise(x * factor).astype(int) - rows).max()
    assert near <= 1  # a tie may fall to the other side when the factor is no power of two
    np.testing.assert_array_equal(quantise(x * 2.0**900), rows)
    np.testing.assert_array_equal(quantise(x * 2.0**-900), rows)


def test_quantise_clips_the_axes() -> None:
    """+-1 on an axis becomes +-32767; -32768 never occurs, so that negation is exact."""
    rows = quantise(np.array([[1.0, 0.0], [0.0, -1.0], [-3.0, 0.0]]))
    assert rows.tolist() == [[LARGEST, 0], [0, -LARGEST], [-LARGEST, 0]]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([[1.0, 0.0], [np.nan, 0.0]], "embedding 1 has a value that is not finite"),
        ([[np.inf, 0.0]], "embedding 0 has a value that is not finite"),
        ([[1.0, 0.0], [1.0, 1.0], [0.0, -0.0]], "embedding 2 has length zero"),
        ([1.0, 0.0], r"embeddings of shape \(2,\); expected \(n, dim\)"),
        ([[[1.0]]], r"embeddings of shape \(1, 1, 1\); expected \(n, dim\)"),
    ],
)
def test_quantise_refuses(x: list, text: str) -> None:
    """NaN, infinity, a row of zeros and a wrong shape are refused by row and shape."""
    with pytest.raises(RowsError, match=f"^{text}"):
        quantise(np.array(x))


def test_quantise_of_no_rows() -> None:
    """No embeddings give no rows of the same dimension."""
    assert quantise(np.empty((0, 7))).shape == (0, 7)


def test_quantise_leaves_its_input_alone_and_takes_float16_and_float32() -> None:
    """The input is read, not written, and every float width gives the same rows."""
    x = np.array([[0.5, -0.25, 0.125]])
    before = x.copy()
    rows = quantise(x)
    np.testing.assert_array_equal(x, before)
    for dtype in (np.float16, np.float32):
        np.testing.assert_array_equal(quantise(x.astype(dtype)), rows)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((1, 3)), "rows of dtype float64; expected int16 as quantise() makes them"),
        (
            np.zeros((1, 3), np.int32),
            "rows of dtype int32; expected int16 as quantise() makes them",
        ),
        (np.zeros((2, 4), np.int16), "rows of shape (2, 4); expected (n, 3)"),
        (np.zeros(3, np.int16), "rows of shape (3,); expected (n, 3)"),
        (np.full((1, 3), -32768, np.int16), "a row holds -32768; expected values within +-32767"),
    ],
)
def test_check_rows_refuses(rows: np.ndarray, text: str) -> None:
    """Only int16 rows of the right width come in; the message names what was found."""
    with pytest.raises(RowsError) as refused:
        check_rows(rows, 3)
    assert str(refused.value) == text
