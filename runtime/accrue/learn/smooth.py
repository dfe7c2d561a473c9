"""Several frames make an answer: a vote over what was decided of the last few."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

from accrue.learn.decision import MAYBE, NOT_READY, SURE, UNKNOWN, Decision

WINDOW = 8  # frames
AGREED = 0.75  # share of them that must say the same
OLDEST_S = 3.0  # what was seen longer ago says nothing of now
LEAST = 3  # frames without which there is no verdict


@dataclass(frozen=True)
class Smoothed:
    """An answer over several frames.

    Attributes:
        class_id: that most frames gave; "" for `UNKNOWN`, or where nothing is known.
        verdict: `SURE` where three quarters of the frames agree on the class and were sure of it
            for the greater part, `UNKNOWN` where three quarters found nothing known, `NOT_READY`
            where the head cannot answer yet or fewer than 3 frames were seen, else `MAYBE`.
        votes: frames that gave this answer. of: frames that were counted.
        decision: the newest of those that gave it, with score, margin and alternatives.
    """

    class_id: str
    verdict: str
    votes: int
    of: int
    decision: Decision | None


class Smoother:
    """Remembers the last decisions. One frame is not a verdict, and an old one is none either.

    >>> from accrue.learn.decision import Alternative
    >>> bolt = Decision("bolt", SURE, 0.5, 1.0, (Alternative("bolt", 1.0),))
    >>> smoother = Smoother()
    >>> for second in range(3):
    ...     answer = smoother.add(bolt, at=float(second))
    >>> answer.class_id, answer.verdict, answer.votes, answer.of
    ('bolt', 'sure', 3, 3)

    Args:
        window: frames to count at most. agreed: share of 0.5 to 1 that makes a verdict.
        oldest_s: seconds after which a frame is forgotten. least: frames needed for a verdict.
    """

    def __init__(
        self,
        window: int = WINDOW,
        *,
        agreed: float = AGREED,
        oldest_s: float = OLDEST_S,
        least: int = LEAST,
    ) -> None:
        self._agreed, self._oldest_s, self._least = agreed, oldest_s, min(least, window)
        self._seen: deque[tuple[float, Decision]] = deque(maxlen=window)

    @property
    def full(self) -> bool:
        """Whether as many frames are counted as there is room for."""
        return len(self._seen) == self._seen.maxlen

    def clear(self) -> None:
        """Forgets all: the scene, or what is known, has changed."""
        self._seen.clear()

    def hold(self, at: float) -> Smoothed:
        """Nothing has changed since the last frame, so that what was seen still stands."""
        self._seen = deque(((at, decision) for _, decision in self._seen), self._seen.maxlen)
        return self.answer(at)

    def add(self, decision: Decision, at: float) -> Smoothed:
        """Counts one more frame, seen at `at` (seconds of any clock), and answers."""
        self._seen.append((at, decision))
        return self.answer(at)

    def answer(self, at: float) -> Smoothed:
        """The answer as it stands at a time."""
        while self._seen and at - self._seen[0][0] > self._oldest_s:
            self._seen.popleft()
        if not self._seen:
            return Smoothed("", NOT_READY, 0, 0, None)
        votes = Counter(_vote(decision) for _, decision in self._seen)
        of = len(self._seen)
        newest = _vote(self._seen[-1][1])
        winner = max(votes, key=lambda vote: (votes[vote], vote == newest))
        count = votes[winner]
        given = [decision for _, decision in self._seen if _vote(decision) == winner]
        verdict = MAYBE
        if winner == (NOT_READY, "") or given[-1].verdict == NOT_READY or of < self._least:
            verdict = NOT_READY
        elif count >= math.ceil(self._agreed * of):
            if winner[0] == UNKNOWN:
                verdict = UNKNOWN
            elif 2 * sum(d.verdict == SURE for d in given) > count:
                verdict = SURE
        return Smoothed(winner[1], verdict, count, of, given[-1])


def _vote(decision: Decision) -> tuple[str, str]:
    """What a decision counts for: a class, or nothing known."""
    if decision.verdict == UNKNOWN:
        return UNKNOWN, ""
    if decision.verdict == NOT_READY:
        return NOT_READY, decision.class_id
    return "known", decision.class_id
