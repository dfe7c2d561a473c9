"""Parts: exact, small, bounded when unpacked, and arranged with few new bytes."""

from __future__ import annotations

import math
import tracemalloc
import zlib
from collections.abc import Collection

import numpy as np
import pytest
from fleet_cases import DIM, rows, unhurried
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from make_samples import DATA, ROWS, SUM, broken_parts
from second_view import second_unpack

from accrue.errors import Rejected, RowsError
from accrue.learn.statistics import Rows, Statistics
from accrue.sync.contribution import Member, Part
from accrue.sync.parts import (
    MANY_PARTS,
    Item,
    arrange,
    check,
    hash_of,
    heading,
    pack,
    pack_rows,
    pack_statistics,
    rows_limit,
    unpack,
)

GOLDEN = DATA / "v1"
BROKEN = {path.parent.name: path for path in sorted(DATA.glob("*/part"))}
REASON = {defect: reason for defect, (reason, _) in broken_parts().items()}
ANY_ROWS = npst.arrays(
    np.int16,
    st.tuples(st.integers(1, 20), st.integers(1, 9)),
    elements=st.integers(-32_767, 32_767),
)


@unhurried
@given(ANY_ROWS)
def test_rows_come_back_as_they_were(some: Rows) -> None:
    packed = pack_rows(some)
    found = unpack(packed, some.shape[1])
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int16
    assert np.array_equal(found, some)
    assert second_unpack(packed) == ("rows", some.tolist())
    assert heading(packed) == ("rows", len(some))


@unhurried
@given(ANY_ROWS)
def test_statistics_come_back_as_they_were(some: Rows) -> None:
    statistics = Statistics.of(some)
    packed = pack_statistics(statistics)
    assert unpack(packed, some.shape[1]) == statistics
    kind, (n, s, S) = second_unpack(packed)
    assert (kind, n, s, S) == (
        "statistics",
        len(some),
        statistics.s.tolist(),
        statistics.S.tolist(),
    )
    assert heading(packed) == ("statistics", len(some))


def test_the_golden_parts_are_read() -> None:
    found = unpack((GOLDEN / "rows.part").read_bytes(), DIM)
    assert np.array_equal(np.asarray(found), ROWS)
    assert unpack((GOLDEN / "statistics.part").read_bytes(), DIM) == SUM


def test_each_defect_of_the_table_is_kept_and_no_other() -> None:
    assert sorted(BROKEN) == sorted(REASON)


@pytest.mark.parametrize("defect", sorted(BROKEN))
def test_a_broken_part_is_refused_for_its_reason(defect: str) -> None:
    with pytest.raises(Rejected) as caught:
        unpack(BROKEN[defect].read_bytes(), DIM)
    assert caught.value.reason == REASON[defect]


def test_a_bomb_takes_no_more_memory_than_its_header_says() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = pack_rows(ROWS)[:16] + packer.compress(bytes(300_000_000)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(Rejected):
        unpack(bomb, DIM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 + len(bomb)


def test_five_rows_of_512_values_are_within_two_percent_of_their_entropy() -> None:
    some = rows(7, 5, 512)
    low, high = some.astype("<i2").view(np.uint8).reshape(-1, 2).T
    share = np.unique(high, return_counts=True)[1] / len(high)
    entropy = len(low) - len(high) * float(share @ np.log2(share)) / 8
    assert len(pack_rows(some)) < 1.02 * entropy


def test_the_smaller_of_rows_and_sums_is_chosen() -> None:
    assert pack(rows(1, 5, 16))[0] == "rows"
    kind, packed = pack(rows(1, 400, 16))
    assert kind == "statistics"
    assert unpack(packed, 16) == Statistics.of(rows(1, 400, 16))
    assert len(packed) < len(pack_rows(rows(1, 400, 16)))


def test_a_part_has_at_least_one_row_and_no_more_than_fit() -> None:
    with pytest.raises(RowsError):
        pack_rows(ROWS[:0])
    with pytest.raises(RowsError):
        pack_rows(np.zeros((rows_limit(64) + 1, 64), np.int16))
    with pytest.raises(RowsError):
        pack_statistics(Statistics.zeros(3))
    with pytest.raises(RowsError):
        pack_statistics(Statistics(1, np.zeros(5_000), np.zeros((5_000, 5_000))))


def test_a_part_must_be_what_it_is_listed_as() -> None:
    data = pack_rows(ROWS)
    members = (Member("shot/a", 3, 0, 1),)
    good = Part(hash_of(data), len(data), "rows", members)
    assert np.array_equal(np.asarray(check(good, data, DIM)), ROWS)
    for listed, reason in (
        (Part(hash_of(b""), len(data), "rows", members), "forged"),
        (Part(good.sha256, len(data) + 1, "rows", members), "malformed"),
        (Part(good.sha256, len(data), "statistics", members), "malformed"),
        (Part(good.sha256, len(data), "rows", (Member("shot/a", 2, 0, 1),)), "malformed"),
    ):
        with pytest.raises(Rejected) as caught:
            check(listed, data, DIM)
        assert caught.value.reason == reason


# ---- arranging ---------------------------------------------------------------------------------


class Shelf:
    """Contents by subject, the parts that list them, and the bytes that were sent."""

    def __init__(self) -> None:
        self.contents: dict[str, Rows | Statistics] = {}
        self.items: dict[str, Item] = {}
        self.parts: tuple[Part, ...] = ()
        self.bytes: dict[str, bytes] = {}
        self.sent = 0

    def add(self, subject: str, content: Rows | Statistics, at: int = 0) -> None:
        self.contents[subject] = content
        n = content.n if isinstance(content, Statistics) else len(content)
        self.items[subject] = Item(n, at, at + 1)

    def settle(self, loose: Collection[str] = ()) -> dict[str, bytes]:
        self.parts, new = arrange(self.parts, self.items, self.contents.__getitem__, loose)
        self.bytes |= new
        self.sent += sum(map(len, new.values()))
        return new

    def require_whole(self) -> None:
        listed = [member for part in self.parts for member in part.members]
        assert {m.subject: Item(*m[1:]) for m in listed} == self.items
        assert len(listed) == len(self.items)
        for part in self.parts:
            content = check(part, self.bytes[part.sha256], DIM)
            if isinstance(content, Statistics):
                assert content == self.contents[part.members[0].subject]
                continue
            start = 0
            for member in part.members:
                expected = np.asarray(self.contents[member.subject])
                assert np.array_equal(content[start : start + member.n_rows], expected)
                start += member.n_rows


@unhurried
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["add", "drop", "sum", "stamp"]))))
def test_parts_hold_exactly_the_items_whatever_comes_and_goes(steps: list[tuple[int, str]]) -> None:
    shelf = Shelf()
    for turn, (which, verb) in enumerate(steps):
        subject = f"shot/{which}"
        if verb == "add" and subject not in shelf.items:
            shelf.add(subject, rows(which, 1 + which % 3), turn)
        elif verb == "drop":
            shelf.items.pop(subject, None)
        elif verb == "sum":
            shelf.add(f"folded/{which}", Statistics.of(rows(which, 4)), turn)
        elif verb == "stamp" and subject in shelf.items:
            shelf.items[subject] = shelf.items[subject]._replace(stamp=turn + 100)
        shelf.settle(loose={part.sha256 for part in shelf.parts if which % 2})
        shelf.require_whole()
        kinds = [part.kind for part in shelf.parts]
        assert kinds.count("rows") <= MANY_PARTS


def test_one_more_shot_is_one_more_small_part() -> None:
    shelf = Shelf()
    shelf.add("shot/a", rows(1, 50))
    first = shelf.settle()
    shelf.add("shot/b", rows(2))
    second = shelf.settle()
    assert len(shelf.parts) == 2
    assert sum(map(len, second.values())) < sum(map(len, first.values())) / 5


def test_what_was_never_sent_is_packed_together_with_what_is_new() -> None:
    shelf = Shelf()
    for i in range(5):
        shelf.add(f"shot/{i}", rows(i))
        shelf.settle(loose={part.sha256 for part in shelf.parts})
        assert len(shelf.parts) == 1
    assert shelf.settle(loose={part.sha256 for part in shelf.parts}) == {}
    shelf.require_whole()


def test_a_new_stamp_sends_no_bytes_again() -> None:
    shelf = Shelf()
    shelf.add("shot/a", rows(1))
    shelf.settle()
    shelf.items["shot/a"] = Item(1, 7, 8)
    assert shelf.settle() == {}
    assert shelf.parts[0].members == (Member("shot/a", 1, 7, 8),)


def test_taking_a_shot_away_takes_it_out_of_the_bytes() -> None:
    shelf = Shelf()
    for subject in ("shot/a", "shot/b"):
        shelf.add(subject, rows(ord(subject[-1])))
    shelf.settle()
    del shelf.items["shot/a"]
    (packed,) = shelf.settle().values()
    assert np.array_equal(np.asarray(unpack(packed, DIM)), rows(ord("b")))


def test_many_small_parts_become_few_and_a_row_is_sent_a_few_times_at_most() -> None:
    shelf = Shelf()
    count = 300
    for i in range(count):
        shelf.add(f"shot/{i:03}", rows(i, 1))
        shelf.settle()
        assert len(shelf.parts) <= 3 * math.log(i + 1, 4) + 1
    shelf.require_whole()
    once = len(pack_rows(np.concatenate([rows(i) for i in range(count)])))
    alone = sum(len(pack_rows(rows(i))) for i in range(count))
    assert shelf.sent < alone + 5 * once


def test_two_shots_with_the_same_rows_share_their_bytes() -> None:
    shelf = Shelf()
    for subject in ("shot/a", "shot/b"):
        shelf.add(subject, rows(1))
        shelf.settle()
    assert len(shelf.parts) == 2
    assert len({part.sha256 for part in shelf.parts}) == 1
    shelf.require_whole()
