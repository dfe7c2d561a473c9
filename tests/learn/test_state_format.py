"""The bytes are those of the page, and everything else is refused in one clear line."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import second_implementation as two
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from learn_cases import SPACE

from accrue.errors import AccrueError, FormatError, FutureVersion, RowsError
from accrue.learn import ROW_LIMIT, State, Statistics, quantise

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/state/v1"
PAGE = ROOT / "docs/reference/state-format.md"
DIGESTS: dict[str, str] = json.loads((GOLDEN / "digests.json").read_text())
quick = settings(deadline=None, max_examples=60)

SAMPLE = (GOLDEN / "two-classes.state").read_bytes()
SUMS = (GOLDEN / "two-rows.statistics").read_bytes()
CLASS_BYTES = 10 + 1 + 8 * 5  # of a class of dimension 2 whose id is one byte
FIRST = 52  # where the first class begins


def page_bytes(name: str) -> bytes:
    """The bytes of an example on the page, without what is said beside them."""
    found = re.search(rf"```hex {name}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return bytes.fromhex(" ".join(re.split(r"\s{3,}", s)[0] for s in found[1].splitlines()))


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_golden_bytes_are_read_and_written_back(name: str) -> None:
    """Every kept sample is read by both implementations, written back, and has its digest."""
    data = (GOLDEN / name).read_bytes()
    if name.endswith(".statistics"):
        sums = Statistics.from_bytes(data)
        assert sums.to_bytes() == data == two.write_statistics(two.read_statistics(data))
        assert sums.digest() == DIGESTS[name] == two.class_digest(two.read_statistics(data))
    else:
        state = State.from_bytes(data)
        assert state.to_bytes() == data == two.write_state(two.read_state(data))
        assert state.digest() == DIGESTS[name] == two.state_digest(two.read_state(data))


def test_every_kept_sample_has_a_digest() -> None:
    """No file of the folder is left out of the test above."""
    assert {path.name for path in GOLDEN.iterdir()} == {*DIGESTS, "digests.json"}


def test_the_example_of_the_page_is_what_teaching_gives() -> None:
    """The page's rows, sums, bytes and digests come out of its embeddings."""
    state = State("0" * 64, 2)
    state.add("a", quantise(np.array([[1.0, 0.0], [0.6, 0.8]])))
    state.add("b", quantise(np.array([[-1.0, 1.0]])))
    assert state.kept("b").tolist() == [[-23170, 23170]]
    assert state.statistics("a").to_bytes() == page_bytes("statistics-a") == SUMS
    assert state.to_bytes() == page_bytes("state") == SAMPLE
    text = PAGE.read_text(encoding="utf-8")
    assert f"Class digest of `a`: `{state.class_digest('a')}`" in text
    assert f"Class digest of `b`: `{state.class_digest('b')}`" in text
    assert f"State digest: `{state.digest()}`" in text


def test_digest_of_sums_is_the_hash_of_their_bytes() -> None:
    """The class digest is nothing but SHA-256 of the canonical bytes."""
    assert Statistics.from_bytes(SUMS).digest() == hashlib.sha256(SUMS).hexdigest()


rows_of = st.integers(1, 4).flatmap(
    lambda dim: st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
        hnp.arrays(
            np.int16,
            st.tuples(st.integers(1, 4), st.just(dim)),
            elements=st.integers(-32767, 32767),
        ),
        min_size=1,
        max_size=4,
    )
)


@quick
@given(rows_of)
def test_both_implementations_write_the_same_bytes(taught: dict[str, np.ndarray]) -> None:
    """For any classes with any Unicode names, bytes and digest equal those of plain integers."""
    dim = next(iter(taught.values())).shape[1]
    state = State(SPACE, dim)
    for class_id, rows in taught.items():
        state.add(class_id, rows)
    model = two.Model(SPACE, dim, {c: two.sums(r.tolist(), dim) for c, r in taught.items()})
    assert state.to_bytes() == two.write_state(model)
    assert state.digest() == two.state_digest(model)
    read = State.from_bytes(state.to_bytes())
    assert read.digest() == state.digest()
    np.testing.assert_array_equal(read.total, state.total)
    assert read.square_sum == state.square_sum


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([SAMPLE, SUMS]), st.data())
def test_damaged_bytes_are_refused_or_mean_one_thing(sample: bytes, data: st.DataObject) -> None:
    """Both readers refuse the same damaged bytes, with our errors only; the rest is canonical."""
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 0x61, 0x7F, 0x80, 0xFF]))
    damaged = damaged[: data.draw(st.sampled_from([len(damaged)] * 3 + [len(damaged) - 1]))]
    reads = (
        (State.from_bytes, two.read_state)
        if sample is SAMPLE
        else (Statistics.from_bytes, two.read_statistics)
    )
    try:
        expected = reads[1](bytes(damaged))
    except two.Broken:
        with pytest.raises(AccrueError):
            reads[0](bytes(damaged))
    else:
        assert expected is not None
        assert reads[0](bytes(damaged)).to_bytes() == bytes(damaged)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)


IMPOSSIBLE = "statistics that no {} rows can have; the bytes were altered"
BEYOND = "statistics hold a value beyond 2**53; expected exact sums"
FUTURE = "of format 2; this Accrue reads up to 1; update Accrue"
ORDER = "state with an empty class or classes out of order"
A_S, A_SECOND = FIRST + 11, FIRST + 11 + 16  # the sum and the second moment of the first class

BROKEN_STATES = {
    "empty": (b"", FormatError, "no state: expected b'ACCRUEST' at the start, found b''"),
    "wrong magic": (
        b"SQLite f" + SAMPLE[8:],
        FormatError,
        "no state: expected b'ACCRUEST' at the start, found b'SQLite f'",
    ),
    "sums for a state": (
        SUMS,
        FormatError,
        "no state: expected b'ACCRUEST' at the start, found b'ACCRSTAT'",
    ),
    "truncated header": (SAMPLE[:51], FormatError, "state cut short at byte 51"),
    "truncated class header": (SAMPLE[:60], FormatError, "state cut short at byte 60"),
    "truncated payload": (SAMPLE[:-1], FormatError, "state cut short at byte 153"),
    "longer id than bytes": (
        patched(SAMPLE, FIRST + CLASS_BYTES, b"\xff\xff"),
        FormatError,
        "state cut short at byte 154",
    ),
    "more classes than bytes": (
        patched(SAMPLE, 48, b"\xff" * 4),
        FormatError,
        "state cut short at byte 154",
    ),
    "huge dimension": (
        patched(SAMPLE, 12, number(65_536, 4)),
        FormatError,
        "state cut short at byte 154",
    ),
    "future version": (patched(SAMPLE, 8, b"\2"), FutureVersion, f"state {FUTURE}"),
    "version 0": (
        patched(SAMPLE, 8, b"\0"),
        FormatError,
        "state of format 0.0; the bytes were altered",
    ),
    "reserved": (
        patched(SAMPLE, 10, b"\7"),
        FormatError,
        "state of format 1.7; the bytes were altered",
    ),
    "dimension 0": (patched(SAMPLE, 12, b"\0"), FormatError, "dimension 0; expected 1 to 65,536"),
    "dimension 65,537": (
        patched(SAMPLE, 12, number(65_537, 4)),
        FormatError,
        "dimension 65537; expected 1 to 65,536",
    ),
    "trailing bytes": (SAMPLE + b"\0", FormatError, "state of 155 bytes; expected 154"),
    "one class fewer": (
        patched(SAMPLE, 48, b"\1"),
        FormatError,
        "state of 154 bytes; expected 103",
    ),
    "unsorted": (
        SAMPLE[:FIRST] + SAMPLE[FIRST + CLASS_BYTES :] + SAMPLE[FIRST : FIRST + CLASS_BYTES],
        FormatError,
        ORDER,
    ),
    "the same id twice": (patched(SAMPLE, FIRST + CLASS_BYTES + 10, b"a"), FormatError, ORDER),
    "empty class": (patched(SAMPLE, FIRST + 2, number(0, 8)), FormatError, ORDER),
    "empty id": (
        patched(SAMPLE, FIRST, b"\0\0")[: FIRST + 10] + SAMPLE[FIRST + 11 :] + b"\0",
        FormatError,
        ORDER,
    ),
    "id that is not UTF-8": (
        patched(SAMPLE, FIRST + CLASS_BYTES + 10, b"\xff"),
        FormatError,
        "state with a class id that is not UTF-8: b'\\xff'",
    ),
    "sum too large for the second moment": (
        patched(SAMPLE, A_S, number(60_000, 8)),
        FormatError,
        IMPOSSIBLE.format(2),
    ),
    "negative diagonal": (
        patched(SAMPLE, A_SECOND, number(-1, 8)),
        FormatError,
        IMPOSSIBLE.format(2),
    ),
    "diagonal beyond the rows": (
        patched(SAMPLE, A_SECOND, number(2 * 32_767**2 + 1, 8)),
        FormatError,
        IMPOSSIBLE.format(2),
    ),
    "off the diagonal beyond the diagonal": (
        patched(SAMPLE, A_SECOND + 8, number(1_100_000_000, 8)),
        FormatError,
        IMPOSSIBLE.format(2),
    ),
    "beyond 2**53": (patched(SAMPLE, A_SECOND, number(2**53 + 1, 8)), FormatError, BEYOND),
    "the most negative number": (
        patched(SAMPLE, A_SECOND + 8, number(-(2**63), 8)),
        FormatError,
        BEYOND,
    ),
    "too many rows in a class": (
        patched(SAMPLE, FIRST + 2, number(ROW_LIMIT + 1, 8)),
        RowsError,
        "8,388,609 rows; at most 8,388,608 (2**23) can be summed exactly; split the class set",
    ),
    "too many rows in all": (
        patched(SAMPLE, FIRST + 2, number(ROW_LIMIT, 8)),
        RowsError,
        "8,388,609 rows; at most 8,388,608 (2**23) can be summed exactly; split the class set",
    ),
}

BROKEN_SUMS = {
    "empty": (b"", FormatError, "no statistics: expected b'ACCRSTAT' at the start, found b''"),
    "a state for sums": (
        SAMPLE,
        FormatError,
        "no statistics: expected b'ACCRSTAT' at the start, found b'ACCRUEST'",
    ),
    "truncated header": (SUMS[:12], FormatError, "statistics cut short at byte 12"),
    "truncated": (
        SUMS[:-8],
        FormatError,
        "statistics of 32 bytes; expected 40 for dimension 2",
    ),
    "trailing bytes": (
        SUMS + b"\0",
        FormatError,
        "statistics of 41 bytes; expected 40 for dimension 2",
    ),
    "future version": (patched(SUMS, 8, b"\2"), FutureVersion, f"statistics {FUTURE}"),
    "version 0": (
        patched(SUMS, 8, b"\0"),
        FormatError,
        "statistics of format 0.0; the bytes were altered",
    ),
    "reserved": (
        patched(SUMS, 11, b"\1"),
        FormatError,
        "statistics of format 1.256; the bytes were altered",
    ),
    "dimension 0": (SUMS[:12] + bytes(12), FormatError, "dimension 0; expected 1 to 65,536"),
    "sums of no rows": (patched(SUMS, 16, b"\0"), FormatError, IMPOSSIBLE.format(0)),
    "fewer rows than the sums need": (patched(SUMS, 16, b"\1"), FormatError, IMPOSSIBLE.format(1)),
    "the most negative number": (
        patched(SUMS, 48, number(-(2**63), 8)),
        FormatError,
        BEYOND,
    ),
    "too many rows": (
        patched(SUMS, 16, number(2**63, 8)),
        RowsError,
        "9,223,372,036,854,775,808 rows; at most 8,388,608 (2**23) can be summed exactly; "
        "split the class set",
    ),
}


@pytest.mark.parametrize("defect", BROKEN_STATES)
def test_broken_state_is_refused(defect: str) -> None:
    """Each defect of a state has its error kind and its one line; the page's reader refuses too."""
    data, kind, text = BROKEN_STATES[defect]
    with pytest.raises(kind) as refused:
        State.from_bytes(data)
    assert (type(refused.value), str(refused.value)) == (kind, text)
    with pytest.raises(two.Broken):
        two.read_state(data)


@pytest.mark.parametrize("defect", BROKEN_SUMS)
def test_broken_statistics_are_refused(defect: str) -> None:
    """Each defect of statistics has its error kind and its one line."""
    data, kind, text = BROKEN_SUMS[defect]
    with pytest.raises(kind) as refused:
        Statistics.from_bytes(data)
    assert (type(refused.value), str(refused.value)) == (kind, text)
    with pytest.raises(two.Broken):
        two.read_statistics(data)


def test_saving_again_and_again_changes_nothing() -> None:
    """A hundred saves and loads give the same bytes (Coral's imprinting re-quantised each time)."""
    data = (GOLDEN / "unicode-ids.state").read_bytes()
    again = data
    for _ in range(100):
        again = State.from_bytes(again).to_bytes()
    assert again == data
