"""The fleet's side of a running device: connected while it is a member, and never in the way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from accrue.errors import AccrueError
from accrue.service.box import Box

LOOK_S = 2.0  # between two looks at whether the device has joined a fleet
STEP_S = 0.2  # the longest that a change taught here waits to be sent
AGAIN_S = 5.0  # after a failure that is not the network's; that one the exchange deals with
log = logging.getLogger("accrue.fleet")


class Connected:
    """Keeps a device at its broker, in a thread of its own.

    It looks whether the device is a member, also of one that `accrue fleet join` made meanwhile.
    Where the packages of the extra `sync` are missing, it says so once and does nothing.

    Args:
        box: makes a box of its own for the thread. told: gets, in a line, what happened.
    """

    def __init__(self, box: Callable[[], Box], told: Callable[[str], object]) -> None:
        self._box, self._told = box, told
        self._over, self._let_go = threading.Event(), threading.Event()
        self._free = threading.Lock()  # held while the thread uses the state folder
        self._link: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Says goodbye to the broker. Returns after 10 s at the latest."""
        self._over.set()
        self._let_go.set()
        self._thread.join(10)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Lets go of the state folder, so that its database can be exchanged."""
        self._let_go.set()
        try:
            with self._free:
                yield
        finally:
            if not self._over.is_set():
                self._let_go.clear()

    def view(self, box: Box) -> dict[str, Any] | None:
        """What is to be known of the fleet, without asking anybody; None: a member of none.

        The fields of `accrue fleet status --json`, and `link`: `state` in a word, `problem`,
        `last_change` (unix seconds; None: nothing was received since the start).
        """
        if not is_member(box):
            return None
        from accrue.service.fleet import Fleet

        return {**asdict(Fleet(box).status()), "link": dict(self._link)}

    def _run(self) -> None:
        said = ""
        while not self._over.is_set():
            try:
                with self._free:
                    if not self._let_go.is_set():
                        with self._box() as box:
                            if is_member(box):
                                self._follow(box)
                                said = ""
                wait = LOOK_S
            except AccrueError as error:
                said, wait = self._failed(error.message, said), AGAIN_S
            except ImportError as error:
                why = f"this device is in a fleet, but {error.name} is missing"
                said, wait = self._failed(f'{why}: pip install "accrue[sync]"', said), AGAIN_S
            except Exception as error:  # the device goes on looking whatever happens here
                log.exception("the fleet's side failed")
                said, wait = self._failed(f"{type(error).__name__}: {error}", said), AGAIN_S
            self._over.wait(wait)

    def _failed(self, message: str, said: str) -> str:
        self._link = {**self._link, "state": "down", "problem": message}
        if message != said:
            log.warning(message)
            self._told(message)
        return message

    def _follow(self, box: Box) -> None:
        from accrue.service.fleet import Fleet
        from accrue.service.following import Following

        fleet = Fleet(box)
        with Following(fleet, told=self._heard) as following:
            while not self._let_go.is_set() and fleet.is_member():
                following.step(STEP_S)
                link = following.exchange.link
                error = None if link.is_up else link.error
                state = following.exchange.stage.value if link.is_up else "down"
                problem = following.problem or (str(error) if error else "")
                if (state, problem) != (self._link.get("state"), self._link.get("problem")):
                    self._link = {**self._link, "state": state, "problem": problem}
                    self._told(problem or state)

    def _heard(self, text: str) -> None:
        log.info(text)
        self._link = {**self._link, "last_change": time.time()}
        self._told(text)


def is_member(box: Box) -> bool:
    """Whether the device has joined a fleet; without the packages that a fleet needs."""
    return (box.settings.state / "fleet" / "membership.json").exists()
