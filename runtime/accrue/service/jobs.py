"""Work that takes longer than somebody waits for an answer."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from accrue.errors import AccrueError, Conflict, NotFound, error_object

RUNNING, DONE, FAILED = "running", "done", "failed"
KEPT = 50  # finished jobs that can still be asked for
TOLD_EVERY_S = 0.25

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        id: for asking again. name: what it does; one of a name runs at a time.
        state: `RUNNING`, `DONE` or `FAILED`. actor: who wanted it.
        what, done, total: how far it is; total 0 where that is not known.
        result, error: of a finished one, as plain JSON.
        started, ended: unix seconds; `ended` None while it runs.
    """

    id: str
    name: str
    state: str
    actor: str
    what: str
    done: int
    total: int
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    started: float
    ended: float | None


class Jobs:
    """Jobs of this process, each in a thread of its own.

    Args:
        changed: told of a job that began, came on or ended; of steps four times a second at most.
    """

    def __init__(self, changed: Callable[[Job], object] = lambda _: None) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._over = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether jobs should come to an end, because the process does."""
        return self._over.is_set()

    def start(self, name: str, work: Callable[[Step], dict[str, Any]], *, actor: str = "") -> Job:
        """Begins `work`, which is given a function to tell of its steps (what, done, total).

        Raises:
            Conflict: a job of this name is at work.
        """
        with self._lock:
            for other in self._jobs.values():
                if other.name == name and other.state == RUNNING:
                    raise Conflict(
                        f"{name} is at work already (job {other.id})",
                        hint="wait until it has ended",
                        found=other.id,
                    )
            job = Job(
                secrets.token_hex(6), name, RUNNING, actor, "", 0, 0, None, None, time.time(), None
            )
            self._jobs[job.id] = job
            for old in list(self._jobs)[: max(0, len(self._jobs) - KEPT)]:
                if self._jobs[old].state != RUNNING:
                    del self._jobs[old]
            thread = threading.Thread(
                target=self._run, args=(job.id, work), name=f"job {name}", daemon=True
            )
            self._threads[job.id] = thread
        self._changed(job)
        thread.start()
        return job

    def get(self, job: str) -> Job:
        """Raises NotFound."""
        with self._lock:
            if job in self._jobs:
                return self._jobs[job]
        raise NotFound(f"no job {job[:40]!r}: it is over for long, or was never begun", found=job)

    def all(self) -> list[Job]:
        """Newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def close(self, timeout_s: float = 5.0) -> None:
        """Asks jobs to end, and waits for them for a while."""
        self._over.set()
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, number: str, work: Callable[[Step], dict[str, Any]]) -> None:
        told = -TOLD_EVERY_S

        def step(what: str, done: int, total: int) -> None:
            nonlocal told
            job = self._put(number, what=what, done=done, total=total)
            if time.monotonic() - told >= TOLD_EVERY_S or done == total:
                told = time.monotonic()
                self._changed(job)

        try:
            result = work(step)
            job = self._put(number, state=DONE, result=result, ended=time.time())
        except AccrueError as error:
            about = error_object(error)
            job = self._put(number, state=FAILED, error=about, ended=time.time())
        except Exception as error:  # whatever it is, the one who waits is told
            text = " ".join(f"{type(error).__name__}: {error}".split())
            about = {"kind": "AccrueError", "message": text, "hint": "", "retryable": False}
            job = self._put(number, state=FAILED, error=about, ended=time.time())
        with self._lock:
            self._threads.pop(number, None)
        self._changed(job)

    def _put(self, number: str, **changes: Any) -> Job:
        with self._lock:
            self._jobs[number] = replace(self._jobs[number], **changes)
            return self._jobs[number]
