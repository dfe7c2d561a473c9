"""A device that follows a relay misses nothing, and one that may have missed something looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accrue.errors import FormatError
from accrue.sync.batch import Batch, divided, packed_bytes
from accrue.sync.follow import REFRESH_S, RESUME_S, SILENCE_S, Follow

E1, E2 = "00" * 8, "11" * 8


def follow() -> Follow:
    return Follow(spread=lambda most: most)


def following(epoch: str = E1) -> Follow:
    found = follow()
    found.connected(0)
    found.relay_state(epoch, True, 0)
    found.snapshot_complete()
    assert not found.direct(0)
    return found


def batch(number: int, epoch: str = E1) -> bytes:
    return Batch(epoch, number, ((f"t/{number}", b"x"),)).to_bytes()


messages = st.lists(
    st.tuples(st.text("abc/é", min_size=1, max_size=20), st.binary(max_size=60)), max_size=12
)


@given(messages, st.integers(0, 2**64 - 1), st.binary(min_size=8, max_size=8))
def test_a_batch_reads_back_as_it_was_written(found, number, epoch) -> None:
    made = Batch(epoch.hex(), number, tuple(found))
    assert Batch.from_bytes(made.to_bytes()) == made


@given(messages, st.data())
def test_a_batch_that_is_cut_or_longer_is_refused(found, data) -> None:
    whole = Batch(E1, 1, tuple(found)).to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FormatError):
        Batch.from_bytes(whole[:cut])
    with pytest.raises(FormatError):
        Batch.from_bytes(whole + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_format_error(data) -> None:
    try:
        Batch.from_bytes(b"ACCB\x01" + data)
    except FormatError:
        return


@given(messages, st.integers(60, 200))
def test_messages_are_divided_in_order_and_within_the_limit(found, limit) -> None:
    groups = list(divided(found, limit))
    fit = [m for m in found if packed_bytes(*m) <= limit - 25]
    assert [m for group in groups for m in group] == fit
    assert all(len(Batch(E1, 0, group).to_bytes()) <= limit for group in groups)


def test_a_relay_that_was_ready_once_is_not_followed_before_it_says_so_now() -> None:
    found = follow()
    found.connected(0)
    found.relay_state(E1, True, 0, retained=True)
    found.snapshot_complete()
    assert found.direct(1)
    found.relay_state(E1, True, 2)
    assert not found.direct(2)


def test_without_a_relay_it_listens_directly() -> None:
    found = follow()
    found.connected(0)
    found.snapshot_complete()
    assert found.direct(1)
    assert found.snapshots == 1


def test_it_goes_on_listening_directly_until_the_snapshot_is_complete() -> None:
    found = follow()
    found.connected(0)
    found.relay_state(E1, True, 0)
    assert found.direct(1)
    found.snapshot_complete()
    assert not found.direct(1)


def test_batches_in_order_bring_no_second_snapshot() -> None:
    found = following()
    heard = [m for n in range(5, 9) for m in found.batch(batch(n), n)]
    assert [topic for topic, _ in heard] == ["t/5", "t/6", "t/7", "t/8"]
    assert not found.direct(8 + SILENCE_S)
    assert (found.snapshots, found.gaps, found.batches) == (1, 0, 4)


def test_a_batch_delivered_twice_is_taken_once() -> None:
    found = following()
    assert found.batch(batch(1), 0)
    assert found.batch(batch(1), 0) == ()
    assert found.gaps == 0


def test_a_gap_is_answered_with_a_snapshot_after_the_wait() -> None:
    found = following()
    found.batch(batch(1), 0)
    assert found.batch(batch(3), 1)
    assert not found.direct(1 + RESUME_S - 0.1)
    assert found.direct(1 + RESUME_S)
    assert (found.snapshots, found.gaps) == (2, 1)
    found.snapshot_complete()
    assert not found.direct(2 + RESUME_S)


def test_a_batch_that_cannot_be_read_is_a_gap() -> None:
    found = following()
    with pytest.raises(FormatError):
        found.batch(b"ACCB", 1)
    assert found.direct(1 + RESUME_S)


def test_the_end_of_the_relay_makes_it_listen_directly() -> None:
    found = following()
    found.relay_state(E1, False, 5)
    assert found.direct(5 + RESUME_S)
    found.snapshot_complete()
    assert found.direct(6 + RESUME_S)


def test_a_late_last_will_of_an_earlier_relay_changes_nothing() -> None:
    found = following(E2)
    found.relay_state(E1, False, 5)
    assert not found.direct(5 + RESUME_S)
    assert found.relay == E2


def test_another_relay_is_followed_after_a_snapshot() -> None:
    found = following(E1)
    found.relay_state(E2, True, 5)
    assert found.batch(batch(9, E1), 6) == ()
    assert found.batch(batch(1, E2), 6)
    assert found.direct(5 + RESUME_S)
    assert found.snapshots == 2


def test_a_last_batch_that_never_came_is_noticed_by_what_the_relay_says_of_itself() -> None:
    found = following()
    found.batch(batch(4), 1)
    found.relay_state(E1, True, 2, last=4)
    assert found.gaps == 0
    found.relay_state(E1, True, 3, last=5)
    assert found.direct(3 + RESUME_S)
    assert found.gaps == 1


def test_a_relay_that_falls_silent_is_held_to_be_lost() -> None:
    found = following()
    found.relay_state(E1, True, 10)
    assert not found.direct(10 + SILENCE_S)
    assert not found.direct(11 + SILENCE_S)
    assert found.direct(11 + SILENCE_S + RESUME_S)
    assert found.relay is None


def test_a_new_connection_begins_again() -> None:
    found = following()
    found.connected(5)
    assert found.direct(5)
    assert (found.snapshots, found.relay) == (2, None)


def test_what_is_retained_is_read_again_from_time_to_time() -> None:
    found = following()
    found.relay_state(E1, True, REFRESH_S - 1)
    assert not found.direct(REFRESH_S - 1)
    assert found.direct(REFRESH_S)
    assert found.snapshots == 2
