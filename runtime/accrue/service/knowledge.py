"""What answers: the newest evidence at once, and the best head for it when that is worked out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from accrue.errors import AccrueError
from accrue.learn.choice import Choice
from accrue.learn.cosine import Cosine
from accrue.learn.leave_one_out import leave_half_out
from accrue.service import heap
from accrue.service.box import Box, Learned
from accrue.service.recall import MANY_SHOTS, keep
from accrue.service.settings import Settings

POLL_S = 0.2  # between two looks at whether something was taught
SETTLED_S = 5.0  # after which nobody answers by what was known before
REST = 3.0  # times what choosing took, before it is done again: a quarter of a core at most
FEW_SHOTS = 200  # that a first answer is calibrated on where nothing is kept of before


class Knowledge:
    """What was learned, kept up to date by threads, and swapped in whole when it is ready.

    Until then the one before answers, so that teaching never stops the cameras. What was taught is
    answered within a second: only what changed is read, and the head that was chosen before is
    solved again. Which head is best, and what known shots score when they are left out, is worked
    out beside that, in a thread of its own that rests three times as long as it works; till then
    the calibration is that of the evidence before, which one shot more hardly moves.

    Args:
        settings: of the state folder to read. remark: is told of a state that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        remark: Callable[[str], object] = lambda _: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._box = Box(settings, remark=remark)
        self._remark, self._poll_s = remark, poll_s
        self._over = threading.Event()
        self._reading = threading.Lock()
        self._box.require_same_space()
        self._evidence = self._box.learned()
        self._chooser: threading.Thread | None = None
        self._chosen: Learned | None = None
        self._choose_again, self._rest_until = False, 0.0
        self.current = self._first()
        self._trim_at = time.monotonic() + SETTLED_S
        self._thread = threading.Thread(target=self._run, name="knowledge", daemon=True)
        self._thread.start()

    def _first(self) -> Learned:
        evidence = self._evidence
        known = evidence.answering
        few_or_named = len(known.shots) < MANY_SHOTS or self._box.settings.chosen_head() is not None
        if few_or_named or known.kept_choice is not None:
            return prepared(evidence)
        self._choose_again = True
        head = Cosine(texts=known.texts)
        served = head.solve(known.state)
        few = known.shots[:: max(1, len(known.shots) // FEW_SHOTS)]
        left_out = leave_half_out(served, few, self._box.settings.predict_views)
        return prepared(evidence.answered_by(Choice(head, served, left_out, "for the start", {})))

    def _run(self) -> None:
        failed, said = "", ""
        while not self._over.wait(self._poll_s):
            try:
                with self._reading:
                    self._box.require_same_space()
                    evidence = self._box.learned()
                self._follow(evidence)
                if time.monotonic() >= self._trim_at:
                    heap.trim()
                    self._trim_at = math.inf
                failed, said = "", ""
            except AccrueError as error:
                if error.message == failed != said:  # twice: no file that is just being made
                    said = error.message
                    self._remark(f"what was taught cannot be read: {error.message}")
                failed = error.message

    def _follow(self, evidence: Learned) -> None:
        if evidence is not self._evidence:
            quick = self._quick(evidence, self.current)
            self._evidence, self._choose_again = evidence, quick is not None
            self.current = quick or prepared(evidence)  # without it, choosing does not take long
            self._trim_at = time.monotonic() + SETTLED_S
        if self._chosen is not None and (self._chooser is None or not self._chooser.is_alive()):
            chosen, self._chosen = self._chosen, None
            newest = chosen if same(chosen, evidence) else self._quick(evidence, chosen)
            self.current = newest or self.current
            self._trim_at = time.monotonic() + SETTLED_S
        idle = self._chooser is None or not self._chooser.is_alive()
        if self._choose_again and idle and time.monotonic() >= self._rest_until:
            self._choose_again = False
            self._chooser = threading.Thread(
                target=self._choose, args=(replace(self._evidence),), name="choosing", daemon=True
            )
            self._chooser.start()

    def share(self, evidence: Learned) -> Learned:
        """The same evidence with what was worked out here, so that nobody does it again."""
        known = self.current
        return known if same(evidence, known) else self._quick(evidence, known) or evidence

    @staticmethod
    def _quick(evidence: Learned, before: Learned) -> Learned | None:
        """The evidence with the head of before; None where that is no good for it."""
        now, then = evidence.answering, before.answering
        if not now.shots or not then.shots or not then.calibration.ready:
            return None
        if then.texts.keys() != now.texts.keys() or any(
            (then.texts[c] != now.texts[c]).any() for c in now.texts
        ):
            return None  # the head holds the texts
        try:
            return prepared(evidence.answered_by(before.choice))
        except AccrueError:  # a head that needs rows, where they were folded since
            return None

    def _choose(self, evidence: Learned) -> None:
        started = time.monotonic()
        try:
            self._chosen = prepared(evidence)
            if not self._choose_again:  # else it is soon of yesterday
                keep(self._chosen)
        except AccrueError as error:
            self._remark(f"no head could be chosen: {error.message}")
        self._rest_until = time.monotonic() + REST * (time.monotonic() - started)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Lets go of the state folder, so that its database can be exchanged."""
        with self._reading:
            self._box.close()
            yield

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._box.close()
        keep(self.current)


def prepared(learned: Learned) -> Learned:
    """The same, with everything worked out that an answer needs."""
    known = learned.answering
    if known.shots or known.texts:
        _ = learned.choice, learned.calibration, learned.refusals
    return learned


def same(one: Learned, other: Learned) -> bool:
    """Whether two are of the same evidence, so that what was answered by one stands."""
    return (
        one.shot_ids == other.shot_ids
        and one.classes_of_shots == other.classes_of_shots
        and one.names == other.names
        and one.disabled == other.disabled
        # sums of rows that are not kept, as of a fleet: the trace tells them apart
        and (one.state.n, one.state.square_sum) == (other.state.n, other.state.square_sum)
        and one.texts.keys() == other.texts.keys()
        and one.refused.keys() == other.refused.keys()
        and all(len(one.refused[c]) == len(other.refused[c]) for c in one.refused)
    )
