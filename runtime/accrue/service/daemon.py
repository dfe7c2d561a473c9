"""The device: cameras, answers, teaching, events and jobs of one process, `accrue run`."""

from __future__ import annotations

import fcntl
import logging
import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from accrue import __version__
from accrue.board import Board, which
from accrue.errors import AccrueError, Conflict, NotFound
from accrue.service.box import Box, Learned, Prediction, Receipt
from accrue.service.burst import Burst
from accrue.service.events import (
    ANSWER,
    CAMERA,
    CLASSES,
    ENCODER,
    FLEET,
    JOB,
    TEACH,
    UNKNOWN,
    Events,
)
from accrue.service.jobs import Job, Jobs
from accrue.service.knowledge import same
from accrue.service.member import Member
from accrue.service.renewal import Renewal
from accrue.service.settings import Settings
from accrue.service.teaching import OPEN, RECORDING, TeachSession
from accrue.service.unknown import FILE_NAME as UNKNOWN_FILE
from accrue.service.watch import Sighting, Watch
from accrue.store import Restored
from accrue.vision.engines import EngineFolder
from accrue.vision.live import Live, Status
from accrue.vision.sources import Frame

LOCK_NAME = "run.lock"
LEFTOVERS = (".clip-", ".evaluate-", ".restore-", ".backup-")  # temporary names in the folder
ENROLMENT = "enrolment"  # the name of the credential; docs/fleet.md
MOST_SESSIONS = 4  # teach sessions that are open at once
REMEMBERED_SESSIONS = 20
VOTES_TOLD_EVERY_S = 0.25  # of an answer whose label stays; the ring of events is not for votes
LOOK_S = 0.5  # the longest that the loop waits for a frame
AFTER_ERROR_S = 1.0
log = logging.getLogger("accrue.device")


@dataclass(frozen=True)
class Answer:
    """What a camera shows now.

    Attributes:
        label: display name of the class; "" where there is none.
        verdict: `sure`, `maybe`, `unknown` or `not_ready`.
        votes, of: frames that gave this answer, and frames counted.
        at: unix seconds of the frame. gate: `new`, `unchanged` or `blurred`.
        score, margin, alternatives: as of a prediction; None where there are none.
    """

    label: str
    verdict: str
    votes: int
    of: int
    at: float
    gate: str
    score: float | None
    margin: float | None
    alternatives: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CameraView:
    """A camera: how it is doing, and what it shows.

    Attributes:
        n: its number, from 0. name: without a password.
        state, since, reason, frames, dropped, opened: as of `accrue.vision.live.Status`.
        answer: None before the first frame.
    """

    n: int
    name: str
    state: str
    since: float
    reason: str
    frames: int
    dropped: int
    opened: int
    answer: Answer | None


class Figures:
    """Counts since the start, for /metrics. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += value  # type: ignore[assignment]

    def all(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        with self._lock:
            return dict(self._counts)


class Device:
    """One process that looks, answers, learns and tells.

    A loop of its own watches the cameras. Everything else comes from other threads: they read
    through `reading`, and change through `writing`, one at a time.

    Args:
        settings: of the state folder, the encoder and so on.
        cameras: as for `open_source`; default: setting `cameras`.
        alive: called by the working loop each time that it has come round.
        opened: makes a camera of a source; for tests.
        origins: where each setting comes from, by its key, for people.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        cameras: Sequence[str] | None = None,
        alive: Callable[[], object] = lambda: None,
        opened: Callable[[str, threading.Condition], Live] | None = None,
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.settings, self.origins = settings, origins
        self.sources = tuple(settings.cameras if cameras is None else cameras)
        self.events = Events()
        self.jobs = Jobs(self._job_changed)
        self.teaching: dict[str, TeachSession] = {}
        self.figures = Figures()
        self.started_at = time.time()
        self.box = Box(settings, remark=self._remark)
        self._alive, self._opened = alive, opened
        self._reader: Box | None = None
        self._watch: Watch | None = None
        self._member: Member | None = None
        self._renewal: Renewal | None = None
        self._adopted: Learned | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._write_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._teach_lock = threading.RLock()
        self._sightings: dict[int, Sighting] = {}
        self._sightings_lock = threading.Lock()
        self._states: dict[int, tuple[str, str]] = {}
        self._told: dict[int, tuple[tuple[str, str], tuple[int, int], float]] = {}
        self._head = 0
        self._unknown: tuple[int, int] = (0, 0)
        self._lock_file: IO[str] | None = None

    @cached_property
    def board(self) -> Board | None:
        """The board in force; None where none is known."""
        return which(self.settings.board).board

    # ---- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the encoder, the state and the cameras, and begins to look.

        Raises:
            Conflict: another process runs on this state folder.
            AccrueError: what the encoder or the state raise; nothing is left running then.
        """
        self._take_lock()
        engines = EngineFolder(self.settings.engines_folder).stamp
        try:
            self._reader = self.box.beside()
            self.box.require_same_space()
            self._watch = Watch(
                self.box.beside(), self.sources, remark=self._remark, opened=self._opened
            )
            self._reader.sharing = self.box.sharing = self._watch.knowledge.share
            self._head = self._newest_entry(self._reader)
            self._unknown = self._unknown_stamp()
            self._member = Member(self.box.beside, self._fleet_told)
            self._renewal = Renewal(self.box.beside(), self.jobs, engines, self._renewed)
        except BaseException:
            self.stop()
            raise
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends everything in order; may be called twice."""
        self._over.set()
        for session in list(self.teaching.values()):
            if session.state in OPEN:
                session.cancel()
        self.jobs.close()
        if self._renewal is not None:
            self._renewal.close()
            self._renewal = None
        if self._member is not None:
            self._member.close()
            self._member = None
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        with self._read_lock:
            if self._reader is not None:
                self._reader.close()
        with self._write_lock:
            self.box.close()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def __enter__(self) -> Device:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> None:
        self.settings.state.mkdir(parents=True, exist_ok=True)
        file = (self.settings.state / LOCK_NAME).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Conflict(
                f"another `accrue run` has {self.settings.state}",
                hint="stop it first, or use another folder with --state",
                path=str(self.settings.state),
            ) from None
        self._lock_file = file
        for prefix in LEFTOVERS:  # of uploads that a kill or a power cut ended
            for path in self.settings.state.glob(f"{prefix}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _remark(self, text: str) -> None:
        log.warning(text)

    # ---- reading and writing --------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Box]:
        """A box to read from, and to ask; one thread at a time, beside whoever writes."""
        with self._read_lock:
            if self._reader is None:
                raise Conflict("the device is not running", hint="start it")
            if self._watch is not None and self._watch.knowledge.current is not self._adopted:
                known = self._adopted = self._watch.knowledge.current
                self._reader.exchange(lambda mine: known if same(mine, known) else mine)
            yield self._reader

    @contextmanager
    def writing(self, actor: str) -> Iterator[Box]:
        """The box to change things with; whoever changes waits for the one before.

        What was changed is published as an event `classes` when it is left.

        Args:
            actor: who is written into the journal.
        """
        with self._write_lock:
            before = self.box.settings
            self.box.settings = replace(before, actor=actor)
            try:
                yield self.box
            finally:
                self.box.settings = before
                self._publish_changes()

    def beside(self) -> Box:
        """A box of one's own, for what takes long and only reads; to be closed after use."""
        return self.box.beside()

    @contextmanager
    def released(self, actor: str) -> Iterator[Box]:
        """The only one that has the state folder: for putting another database into its place."""
        with self._write_lock, self._read_lock:
            watch, member = self._watch, self._member
            if watch is None or member is None or self._reader is None:
                raise Conflict("the device is not running", hint="start it")
            with member.released(), watch.knowledge.released():
                self._reader.close()
                try:
                    yield self.box
                finally:
                    self.box.close()
            self._head = self._newest_entry(self.box)
            self.box.close()  # opened to read; the next writer opens it to write

    def restore(self, file: Path, actor: str, *, replace: bool = False) -> Restored:
        """Puts a backup in the place of what was learned; as `Box.restore`."""
        with self.released(actor) as box:
            done = box.restore(file, replace=replace)
        self.events.publish(CLASSES, verb="restore", summary="a backup was restored", actor=actor)
        return done

    @staticmethod
    def _newest_entry(box: Box) -> int:
        entries = box.history(1)
        return entries[0].seq if entries else 0

    def _publish_changes(self) -> None:
        """An event for each new entry of the journal, whoever wrote it."""
        with self._write_lock:
            try:
                entries = self.box.history(20)
            except AccrueError as error:  # it is told to whoever asks for the journal
                log.warning("the journal cannot be read: %s", error.message)
                return
            for entry in reversed(entries):
                if entry.seq > self._head:
                    self._head = entry.seq
                    about = {"entry": entry.seq, "verb": entry.verb, "summary": entry.summary}
                    log.info("%s", entry.summary, extra={"actor": entry.actor, "entry": entry.seq})
                    self.events.publish(CLASSES, **about, actor=entry.actor)
                    self.figures.add("accrue_changes_total", verb=entry.verb)

    # ---- cameras --------------------------------------------------------------------------------

    def cameras(self) -> list[CameraView]:
        watch = self._watch
        if watch is None:
            return []
        with self._sightings_lock:
            seen = dict(self._sightings)
        return [_view(n, status, seen.get(n)) for n, status in enumerate(watch.cameras)]

    def frame(self, camera: int) -> Frame | None:
        """The newest frame; None before the first. Raises NotFound where there is no such one."""
        if self._watch is None or not 0 <= camera < len(self.sources):
            raise NotFound(
                f"no camera {camera}; there are {len(self.sources)}",
                hint="cameras count from 0: see `GET /api/v1/cameras`, or setting `cameras`",
                found=camera,
            )
        return self._watch.newest(camera)

    @property
    def ready(self) -> str:
        """Why the device does not answer yet; "" where it does."""
        if self._watch is None or self._thread is None or not self._thread.is_alive():
            return "the loop that watches is not running"
        return ""

    def status(self) -> dict[str, Any]:
        """What the device is and does, in brief."""
        serving = self.box.serving
        manifest = self.box.bundle.manifest
        return {
            "version": __version__,
            "started": self.started_at,
            "ready": self.ready == "",
            "reason": self.ready,
            "encoder": {
                "name": manifest.name,
                "dim": manifest.dim,
                "space_id": manifest.space_id,
                "licence": manifest.licence_name,
                "restricted": manifest.licence_restricted,
                "serves": serving.candidate,
            },
            "cameras": len(self.sources),
            "last_event": self.events.last,
        }

    def fleet(self) -> dict[str, Any] | None:
        """How the device stands in its fleet (`accrue fleet status`); None where it is in none."""
        return None if self._member is None else self._member.view()

    def enrol(self, file: Path) -> None:
        """Joins the fleet that this device was prepared for; as `Fleet.enrol`, but raises nothing:
        a device that cannot join serves all the same, and says why not."""
        try:
            from accrue.service.fleet import Fleet

            with self.writing(ENROLMENT) as box:
                joined = Fleet(box).enrol(file)
        except (AccrueError, ImportError) as error:  # the packages of the extra `sync`
            log.error("%s was not taken up: %s", file, error)
            self.events.publish(FLEET, message=f"not joined: {error}")
            return
        if joined is not None:
            self._fleet_told(f"joined fleet {joined.fleet} as {joined.name}")

    def _renewed(self) -> None:
        serving = self.box.serving
        self.events.publish(ENCODER, serves=serving.candidate, engine=serving.engine)

    def _fleet_told(self, text: str) -> None:
        log.info("fleet: %s", text)
        self.events.publish(FLEET, message=text)

    # ---- teaching from a camera -----------------------------------------------------------------

    def begin_teach(self, name: str, camera: int, actor: str) -> TeachSession:
        """Begins to record frames of a camera for a class.

        Raises:
            NotFound: no such camera. UsageError: not a name.
            Conflict: the camera is being recorded already, or too many sessions are open.
        """
        self.frame(camera)
        with self._teach_lock:
            there = [s for s in self.teaching.values() if s.state in OPEN]
            for other in there:
                if other.camera == camera and other.state == RECORDING:
                    raise Conflict(
                        f"camera {camera} is being recorded for {other.name} by {other.actor}",
                        hint="stop that session, or wait until it ends",
                        found=other.id,
                    )
            if len(there) >= MOST_SESSIONS:
                raise Conflict(
                    f"{len(there)} teach sessions are open, as many as there may be",
                    hint="commit or cancel one",
                    found=len(there),
                )
            session = TeachSession(
                name,
                camera,
                actor,
                self._bursting(),
                lambda: self.frame(camera),
                self.cameras()[camera].name,
                timeout_s=self.settings.teach_seconds,
                changed=self._teach_changed,
            )
            self.teaching[session.id] = session
            for old in [s for s in self.teaching.values() if s.state not in OPEN]:
                if len(self.teaching) > REMEMBERED_SESSIONS:
                    del self.teaching[old.id]
        session.start()
        self._teach_changed(session)
        return session

    def _bursting(self) -> Burst:
        with self.reading() as box:
            return box.burst()

    def teach_session(self, session: str) -> TeachSession:
        """Raises NotFound."""
        if session not in self.teaching:
            raise NotFound(f"no teach session {session[:40]!r}", hint="begin one", found=session)
        return self.teaching[session]

    def commit_teach(self, session: str, actor: str, keep: Sequence[int] | None = None) -> Receipt:
        """Teaches what a session kept; its receipt."""
        found = self.teach_session(session)
        with self.writing(actor) as box:
            return found.commit(box, keep)

    def _teach_changed(self, session: TeachSession) -> None:
        view = session.view()
        self.events.publish(
            TEACH,
            session=view.id,
            **{"class": view.class_name},
            camera=view.camera,
            actor=view.actor,
            state=view.state,
            kept=view.kept,
            dropped=view.dropped,
            hint=view.hint,
            enough=view.enough,
            shot=view.shot,
        )

    def _job_changed(self, job: Job) -> None:
        self.events.publish(JOB, job=asdict(job))

    # ---- the loop -------------------------------------------------------------------------------

    def _run(self) -> None:
        watch = self._watch
        assert watch is not None
        knew = watch.knowledge.current
        said = ""
        while not self._over.is_set():
            try:
                seen = None
                if watch.over:  # no camera, or files that have come to their end
                    self._over.wait(LOOK_S)
                else:
                    seen = watch.step(LOOK_S)
                self._tell_states(watch)
                if seen is not None:
                    self._take(watch, seen)
                if watch.knowledge.current is not knew:
                    knew = watch.knowledge.current
                    self._publish_changes()
                self._tell_unknown()
                for session in list(self.teaching.values()):
                    session.expire(time.monotonic())
                said = ""
            except Exception as error:  # a full disk must not end the watching
                text = error.message if isinstance(error, AccrueError) else repr(error)
                self.figures.add("accrue_errors_total")
                if text != said:
                    said = text
                    log.error("watching: %s", text)
                self._over.wait(AFTER_ERROR_S)
                continue  # and the watchdog is not fed
            self._alive()

    def _tell_states(self, watch: Watch) -> None:
        for n, status in enumerate(watch.cameras):
            state = status.state, status.reason
            if self._states.get(n) != state:
                self._states[n] = state
                because = f": {status.reason}" if status.reason else ""
                log.info("camera %d (%s) is %s%s", n, status.name, status.state, because)
                self.events.publish(
                    CAMERA, camera=n, name=status.name, state=status.state, reason=status.reason
                )

    def _take(self, watch: Watch, seen: Sighting) -> None:
        n = seen.number
        with self._sightings_lock:
            self._sightings[n] = seen
        camera = str(n)
        self.figures.add("accrue_frames_total", camera=camera, gate=seen.gate)
        for stage, ms in seen.stages_ms.items():
            self.figures.add("accrue_stage_seconds_total", ms / 1e3, stage=stage)
            self.figures.add("accrue_stage_frames_total", stage=stage)
        answer = (seen.answer.verdict, seen.answer.label)
        votes = (seen.votes, seen.of)
        told = self._told.get(n)
        new = told is None or told[0] != answer
        now = time.monotonic()
        if new or (told is not None and told[1] != votes and now - told[2] >= VOTES_TOLD_EVERY_S):
            self._told[n] = answer, votes, now
            if n == 0 and self._member is not None:
                self._member.answer(seen.answer.label or None, seen.answer.verdict)
            if new:
                label = seen.answer.label
                self.figures.add(
                    "accrue_answers_total", camera=camera, verdict=answer[0], label=label
                )
            about = asdict(_answer(seen))
            self.events.publish(ANSWER, camera=n, name=seen.camera, new=new, **about)

    def _tell_unknown(self) -> None:
        """Says that the queue of the unknown has changed, going by the file's time and size."""
        if self.settings.unknown and (stamp := self._unknown_stamp()) != self._unknown:
            self._unknown = stamp
            self.events.publish(UNKNOWN)

    def _unknown_stamp(self) -> tuple[int, int]:
        stamp = (0, 0)
        for suffix in ("", "-wal"):
            try:
                found = self.settings.state.joinpath(UNKNOWN_FILE + suffix).stat()
            except OSError:
                continue
            stamp = stamp[0] + found.st_mtime_ns, stamp[1] + found.st_size
        return stamp


def _view(n: int, status: Status, seen: Sighting | None) -> CameraView:
    return CameraView(
        n=n,
        name=status.name,
        state=status.state,
        since=status.since,
        reason=status.reason,
        frames=status.frames,
        dropped=status.dropped,
        opened=status.opened,
        answer=None if seen is None else _answer(seen),
    )


def _answer(seen: Sighting) -> Answer:
    told: Prediction = seen.answer
    return Answer(
        label=told.label,
        verdict=told.verdict,
        votes=seen.votes,
        of=seen.of,
        at=seen.at,
        gate=seen.gate,
        score=_finite(told.score),
        margin=_finite(told.margin),
        alternatives=tuple(asdict(other) for other in told.alternatives),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
