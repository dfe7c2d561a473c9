"""An answer over several frames: no verdict of one frame, none of old ones."""

from __future__ import annotations

import math

import pytest

from accrue.learn.decision import MAYBE, NOT_READY, SURE, UNKNOWN, Alternative, Decision
from accrue.learn.smooth import Smoother


def decided(class_id: str, verdict: str = SURE) -> Decision:
    return Decision(class_id, verdict, 0.5, 1.0, (Alternative(class_id, 1.0),))


def after(*decisions: Decision, every_s: float = 0.1) -> tuple[str, str, int, int]:
    smoother = Smoother()
    for i, decision in enumerate(decisions):
        found = smoother.add(decision, at=i * every_s)
    return found.class_id, found.verdict, found.votes, found.of


BOLT, NUT, NOTHING = decided("bolt"), decided("nut"), decided("nut", UNKNOWN)


def test_one_frame_is_not_a_verdict() -> None:
    assert after(BOLT) == ("bolt", NOT_READY, 1, 1)
    assert after(BOLT, BOLT) == ("bolt", NOT_READY, 2, 2)
    assert after(BOLT, BOLT, BOLT) == ("bolt", SURE, 3, 3)


def test_seven_of_eight_frames_are_sure_and_five_are_not() -> None:
    assert after(*[BOLT] * 7, NUT) == ("bolt", SURE, 7, 8)
    assert after(*[BOLT] * 5, *[NUT] * 3) == ("bolt", MAYBE, 5, 8)


def test_frames_that_agree_on_a_class_that_they_were_not_sure_of_are_not_sure() -> None:
    assert after(*[decided("bolt", MAYBE)] * 6, BOLT) == ("bolt", MAYBE, 7, 7)


def test_unknown_is_a_vote_of_its_own_whatever_is_nearest() -> None:
    assert after(*[NOTHING, decided("bolt", UNKNOWN)] * 4) == ("", UNKNOWN, 8, 8)


def test_of_two_answers_with_as_many_frames_the_newest_counts() -> None:
    assert after(BOLT, BOLT, NUT, NUT)[:2] == ("nut", MAYBE)
    assert after(NUT, NUT, BOLT, BOLT)[:2] == ("bolt", MAYBE)


def test_a_head_that_cannot_answer_gives_no_verdict() -> None:
    not_ready = Decision("bolt", NOT_READY, math.nan, 1.0, ())
    assert after(*[not_ready] * 8) == ("bolt", NOT_READY, 8, 8)


def test_old_frames_are_forgotten_unless_nothing_has_changed() -> None:
    smoother = Smoother(oldest_s=3.0)
    for second in range(3):
        smoother.add(BOLT, at=float(second))
    assert smoother.hold(at=60.0).votes == 3
    assert smoother.answer(at=63.0).votes == 3
    gone = smoother.answer(at=63.1)
    assert (gone.verdict, gone.votes, gone.decision) == (NOT_READY, 0, None)


def test_only_so_many_frames_count_and_clearing_forgets_them() -> None:
    smoother = Smoother(window=4)
    for i in range(10):
        assert smoother.full == (i >= 4)
        assert smoother.add(BOLT if i < 7 else NUT, at=0.1 * i).of == min(i + 1, 4)
    assert smoother.answer(at=1.0).class_id == "nut"
    smoother.clear()
    assert smoother.answer(at=1.0).of == 0


@pytest.mark.parametrize("verdict", [SURE, MAYBE, UNKNOWN])
def test_the_answer_shows_the_newest_decision_that_gave_it(verdict: str) -> None:
    smoother = Smoother()
    first, second = decided("bolt", verdict), decided("bolt", verdict)
    smoother.add(first, at=0.0)
    assert smoother.add(second, at=0.1).decision is second
