"""Stamps: never back, never twice, close to the wall clock."""

from __future__ import annotations

from fleet_cases import unhurried
from hypothesis import given
from hypothesis import strategies as st

from accrue.sync.clock import COUNTER_BITS, SKEW_MS, Clock, stamp_ms, wall_clock_ms

TIMES = st.integers(0, 2**40)


@unhurried
@given(st.lists(st.one_of(TIMES, st.none()), min_size=1))
def test_stamps_only_grow_whatever_the_wall_clock_does(steps: list[int | None]) -> None:
    now = [0]
    clock = Clock(now_ms=lambda: now[0])
    made = []
    for step in steps:
        now[0] = now[0] if step is None else step
        made.append(clock.tick())
    assert made == sorted(set(made))


@unhurried
@given(TIMES, TIMES)
def test_what_is_said_after_hearing_has_the_greater_stamp(ours: int, theirs: int) -> None:
    heard = Clock(now_ms=lambda: theirs).tick()
    clock = Clock(now_ms=lambda: ours)
    clock.observe(heard)
    assert clock.tick() > heard


@unhurried
@given(TIMES, TIMES)
def test_a_restart_goes_on_behind_the_last_stamp(before: int, after: int) -> None:
    last = Clock(now_ms=lambda: before).tick()
    assert Clock(last, now_ms=lambda: after).tick() > last


def test_a_stamp_is_the_time_as_long_as_the_clock_runs() -> None:
    clock = Clock(now_ms=lambda: 1_700_000_000_000)
    assert stamp_ms(clock.tick()) == 1_700_000_000_000
    assert abs(stamp_ms(Clock().tick()) - wall_clock_ms()) < 60_000


def test_more_stamps_than_the_counter_holds_run_into_the_next_millisecond() -> None:
    clock = Clock(now_ms=lambda: 7)
    made = [clock.tick() for _ in range(2**COUNTER_BITS + 1)]
    assert stamp_ms(made[-2]) == 7
    assert stamp_ms(made[-1]) == 8


def test_ten_minutes_ahead_is_the_last_that_is_no_future() -> None:
    clock = Clock(now_ms=lambda: 1_000_000)
    edge = 1_000_000 + SKEW_MS << COUNTER_BITS
    assert not clock.is_future(edge + 2**COUNTER_BITS - 1)
    assert clock.is_future(edge + 2**COUNTER_BITS)
