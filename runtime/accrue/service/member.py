"""The device as a member of its fleet: what is taught here goes out, what others teach comes in."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from accrue.errors import AccrueError, StoreBusy
from accrue.service.box import Box

if TYPE_CHECKING:
    from accrue.service.fleet import Fleet
    from accrue.service.following import Following

STEP_S = 0.5
LOOK_S = 2.0  # between two looks at whether the device is in a fleet, and at how it stands
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # before it is tried again after a failure
PARKED_WITHIN_S = 30.0
MEMBERSHIP = "fleet/membership.json"
log = logging.getLogger("accrue.fleet")


class Member:
    """A thread that follows the fleet, once the device is in one; joined and left while it runs.

    Args:
        box: makes a box of the thread's own. told: gets, in a line, what happened.
    """

    def __init__(self, box: Callable[[], Box], told: Callable[[str], object]) -> None:
        self._box, self._told = box, told
        self._over, self._pause, self._parked = (threading.Event() for _ in range(3))
        self._view: dict[str, Any] | None = None
        self._answer: tuple[str | None, str] | None = None
        self._synced_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()

    def view(self) -> dict[str, Any] | None:
        """How the device stands in its fleet; None where it is in none.

        As `accrue fleet status`, and `synced_at`: when all was exchanged last, in unix seconds;
        `drafted`: ids of the classes that wait for the owner.
        """
        return self._view

    def answer(self, label: str | None, verdict: str) -> None:
        """What the first camera shows, for Home Assistant where the device tells it of itself."""
        self._answer = label, verdict

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Lets go of the state folder, so that its database can be exchanged. Raises StoreBusy."""
        self._pause.set()
        try:
            if not self._parked.wait(PARKED_WITHIN_S):
                raise StoreBusy("the exchange with the fleet does not pause", hint="try again")
            yield
        finally:
            self._pause.clear()
            self._parked.clear()

    @property
    def _halted(self) -> bool:
        return self._over.is_set() or self._pause.is_set()

    def _rest(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._halted and (left := deadline - time.monotonic()) > 0:
            self._over.wait(min(left, 0.1))

    def _run(self) -> None:
        wait, said = FIRST_WAIT_S, ""
        while not self._over.is_set():
            if self._pause.is_set():
                self._parked.set()
                self._over.wait(0.05)
                continue
            try:
                if not self._follow():
                    self._view = None
                    self._rest(LOOK_S)
                wait, said = FIRST_WAIT_S, ""
            except Exception as error:  # a fleet out of order must not end the device
                known = isinstance(error, AccrueError)
                text = error.message if known else repr(error)  # type: ignore[attr-defined]
                self._view = {**(self._view or {}), "connected": False, "problems": [text]}
                if text != said:
                    said = text
                    log.error("the fleet cannot be followed: %s", text)
                    self._told(f"cannot be followed: {text}")
                self._rest(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)

    def _follow(self) -> bool:
        """Follows until it shall pause or the device leaves; False where it is in no fleet."""
        with self._box() as box:
            if not is_member(box):
                return False
            from accrue.service.fleet import Fleet
            from accrue.service.following import Following

            fleet = Fleet(box)
            with Following(fleet, told=self._told) as following:
                looked, answered = -LOOK_S, None
                while not self._halted and fleet.is_member():
                    following.step(STEP_S)
                    if self._answer != answered and self._answer is not None:
                        answered = self._answer
                        following.home.answer(*answered)
                    if time.monotonic() - looked >= LOOK_S:
                        looked = time.monotonic()
                        self._view = _view(fleet, following)
                        if self._view["connected"] and self._view["settled"]:
                            self._synced_at = time.time()
                        self._view["synced_at"] = self._synced_at
        return True


def is_member(box: Box) -> bool:
    """Whether the device has joined a fleet; needs none of the packages of the extra `sync`."""
    return (box.settings.state / MEMBERSHIP).exists()


def _view(fleet: Fleet, following: Following) -> dict[str, Any]:
    link = following.exchange.link
    problems = [error.message for error in following.exchange.problems.values()]
    if link.error is not None and not link.is_up:
        problems.insert(0, link.error.message)
    if following.problem:
        problems.insert(0, following.problem)
    return {
        **asdict(fleet.status()),
        "connected": link.is_up,
        "settled": following.is_settled,
        "sent": following.exchange.figures.sent,
        "received": following.exchange.figures.applied,
        "drafted": sorted(following.ledger.drafts()),
        "problems": problems,
    }
