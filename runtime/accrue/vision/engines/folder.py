"""Engines on the disk: a cache of this device, whole or not there.

    STATE/engines/
        <stem>.plan     what TensorRT loads
        <stem>.json     the sidecar: its key, size, hash, and how near it came to the reference
        active.json     which engine serves, and which one served before it
        checked/        realisations by ONNX Runtime that passed the golden check, one file a key
        builds.json     keys whose builds failed the golden check, or were begun and never ended
        .lock           held by whoever builds; says how far that is
        onnx-tensorrt/  what ONNX Runtime's TensorRT provider keeps, one folder a key

A plan is written before its sidecar, and each at once (temporary file, fsync, rename), so that a
plan that is not whole has no sidecar and is never read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accrue import __version__
from accrue.errors import Conflict, EngineError, FormatError, NotFound, StoreError
from accrue.store.failures import translated
from accrue.store.files import STEPS, FileSteps, write_atomically
from accrue.vision.encode import Parity
from accrue.vision.engines.key import EngineKey
from accrue.vision.engines.trt import Plan

FORMAT_VERSION = 1
ACTIVE, BUILDS = "active.json", "builds.json"
CHECKED = "checked"
PROVIDER_CACHE = "onnx-tensorrt"
SIDECAR_LIMIT_BYTES = 1 << 20
LOCK = ".lock"
LOCK_TRIES, LOCK_AGAIN_S = 20, 0.05
TOLD_EVERY_S = 0.5  # of the steps of a build
_STEM_DIGITS = 12  # of the key's digest; the random part tells apart two builds of one key


@dataclass(frozen=True)
class Engine:
    """One engine, by its sidecar.

    Attributes:
        stem: of its files' names.
        key: what it was built from and for.
        encoder, space_id: of the bundle. file: of the bundle that it was built from.
        sha256, bytes: of the plan.
        built_at: Unix seconds. build_s: how long it took.
        parity: of the golden check; None where it has not been made.
        checked_on: the GPU that it was made on.
    """

    stem: str
    key: EngineKey
    encoder: str
    space_id: str
    file: str
    sha256: str
    bytes: int
    built_at: float
    build_s: float
    parity: Parity | None = None
    checked_on: str = ""

    def document(self) -> dict[str, Any]:
        document = asdict(self)
        del document["stem"]
        return {"format": FORMAT_VERSION, "producer": f"accrue {__version__}", **document}

    @classmethod
    def from_document(cls, stem: str, document: Any) -> Engine:
        """Raises FormatError where it is no sidecar."""
        try:
            if document["format"] != FORMAT_VERSION:
                raise FormatError(
                    f"its format is {document['format']!r}; expected {FORMAT_VERSION}"
                )
            values = {k: v for k, v in document.items() if k not in ("format", "producer")}
            values["key"] = EngineKey.from_document(values["key"])
            values["parity"] = Parity(**values["parity"]) if values["parity"] else None
            return cls(stem=stem, **values)
        except (TypeError, KeyError, ValueError) as error:
            raise FormatError(f"not the sidecar of an engine: {error}") from error


@dataclass(frozen=True)
class Building:
    """An engine that is being built.

    Attributes:
        pid: of the process, 0 where it has not told yet. began: Unix seconds.
        what, done, total: how far it is, in the builder's words; total 0 where that is unknown.
    """

    pid: int
    began: float
    what: str
    done: int
    total: int


class EngineFolder:
    """The folder of engines. It need not exist before the first is written.

    Args:
        path: ``engines`` in the state folder.
        steps: of an atomic write; for tests.
    """

    def __init__(self, path: Path, *, steps: FileSteps = STEPS) -> None:
        self.path = path
        self._steps = steps

    def write(
        self, plan: Plan, key: EngineKey, *, encoder: str, space_id: str, file: str, build_s: float
    ) -> Engine:
        """Both files of a new engine, which serves only after `activate`.

        Raises:
            StoreFull, StoreReadOnly, StoreError: neither file is left behind.
        """
        stem = f"{key.flavour}-{key.digest[:_STEM_DIGITS]}-{secrets.token_hex(2)}"
        engine = Engine(
            stem=stem,
            key=key,
            encoder=encoder,
            space_id=space_id,
            file=file,
            sha256=hashlib.sha256(plan.content).hexdigest(),
            bytes=len(plan.content),
            built_at=time.time(),
            build_s=round(build_s, 3),
        )
        self._make()
        path = self.plan_path(engine)
        try:
            write_atomically(path, [plan.content], steps=self._steps)
            self._write_sidecar(engine)
        except StoreError:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        return engine

    def plan_path(self, engine: Engine) -> Path:
        return self.path / f"{engine.stem}.plan"

    def read(self, engine: Engine) -> bytes:
        """The plan, if it is as it was written.

        Raises:
            NotFound, EngineError: it is gone, or altered.
        """
        path = self.plan_path(engine)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"engine {engine.stem} has lost its file {path}",
                hint="build it again: accrue engine build",
                path=str(path),
            ) from None
        except OSError as error:
            raise EngineError(f"cannot read {path}: {error.strerror or error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != engine.sha256:
            raise EngineError(
                f"engine {engine.stem} was altered: SHA-256 {found[:12]}…, {len(content):,} bytes; "
                f"expected {engine.sha256[:12]}…, {engine.bytes:,} bytes",
                hint="build it again: accrue engine build",
                path=str(path),
                found=found,
                expected=engine.sha256,
            )
        return content

    def engines(self) -> list[Engine]:
        """All whose sidecar can be read, newest first."""
        found = []
        for path in sorted(self.path.glob("*.plan")):
            try:
                found.append(Engine.from_document(path.stem, _json(path.with_suffix(".json"))))
            except FormatError:
                continue
        return sorted(found, key=lambda engine: -engine.built_at)

    def unreadable(self) -> list[Path]:
        """Plans and sidecars without a partner that can be read, and what a kill left behind."""
        known = {engine.stem for engine in self.engines()}
        files = [*self.path.glob("*.plan"), *self.path.glob("*.json")]
        lost = [p for p in files if p.stem not in known and p.name not in (ACTIVE, BUILDS)]
        return sorted([*lost, *self.path.glob(".*.tmp")])

    def activate(self, engine: Engine, parity: Parity, *, on: str) -> Engine:
        """From now on this one serves; the one that served is kept as the previous one.

        Args:
            on: the GPU of the check, `Device.gpu_title`.
        """
        checked = replace(engine, parity=parity, checked_on=on)
        self._write_sidecar(checked)
        active = self._active()
        slot = active.setdefault(engine.space_id, {})
        before = [stem for stem in slot.get(engine.key.flavour, []) if stem != engine.stem]
        slot[engine.key.flavour] = [engine.stem, *before][:2]
        self._write_active(active)
        return checked

    def deactivate(self, engine: Engine) -> None:
        """It serves no longer, nor is it kept as the previous one."""
        active = self._active()
        for slot in active.values():
            for flavour, stems in slot.items():
                slot[flavour] = [stem for stem in stems if stem != engine.stem]
        self._write_active(active)
        self._write_sidecar(replace(engine, parity=None, checked_on=""))

    def remove(self, engine: Engine) -> None:
        """Deletes both files, the sidecar first."""
        path = self.plan_path(engine)
        with translated(path):
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def serving(self, space_id: str, flavour: str) -> list[Engine]:
        """The active engine, then the previous one; those of them that are there."""
        by_stem = {engine.stem: engine for engine in self.engines()}
        stems = self._active().get(space_id, {}).get(flavour, [])
        return [by_stem[stem] for stem in stems if stem in by_stem and by_stem[stem].parity]

    def clean(self, *, everything: bool = False) -> list[Path]:
        """Removes all but the active and previous engines, and what was built after them and has
        not been checked, of that the newest; with `everything`, all. Returns what was removed."""
        kept: set[str] = set()
        engines = self.engines()
        if not everything:
            for slot in self._active().values():
                kept.update(stem for stems in slot.values() for stem in stems)
            seen = set()
            for engine in engines:  # newest first
                place = engine.space_id, engine.key.flavour
                if place not in seen and engine.parity is None:
                    kept.add(engine.stem)
                seen.add(place)
        removed = self.unreadable()
        for engine in engines:
            if engine.stem not in kept:
                plan = self.plan_path(engine)
                removed += [plan.with_suffix(".json"), plan]  # the sidecar first
        if everything:
            names = (ACTIVE, BUILDS, CHECKED, PROVIDER_CACHE)
            extra = [self.path / name for name in names]
            removed += [path for path in extra if path.exists()]
        with translated(self.path):
            for path in removed:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return removed

    @contextmanager
    def lock(self) -> Iterator[Callable[[str, int, int], None]]:
        """For one builder at a time; it gives what to tell of its steps (what, done, total), for
        `building`. Raises Conflict where another process builds."""
        self._make()
        with translated(self.path), (self.path / LOCK).open("a+") as file:
            for _ in range(LOCK_TRIES):  # who only asks whether somebody builds has it for a moment
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(LOCK_AGAIN_S)
            else:
                found = _building(self.path / LOCK)
                raise Conflict(
                    f"another process ({f'pid {found.pid}' if found else 'unknown'}) builds an "
                    f"engine in {self.path}",
                    hint="wait until it is done",
                )
            began, told, of = time.time(), -TOLD_EVERY_S, ""

            def tell(what: str, done: int, total: int) -> None:
                nonlocal told, of
                now = time.monotonic()
                if now - told < TOLD_EVERY_S and what == of and done != total:
                    return
                told, of = now, what
                state = Building(os.getpid(), began, what, done, total)
                with suppress(OSError):  # a full disk is no reason to stop
                    file.seek(0)
                    file.truncate()
                    file.write(json.dumps(asdict(state)))
                    file.flush()

            tell("", 0, 0)
            for left in self.path.glob(".*.tmp"):  # nobody else writes now
                left.unlink(missing_ok=True)
            yield tell

    def building(self) -> Building | None:
        """How far whoever builds is; None where nobody does, whatever a killed build left."""
        try:
            with (self.path / LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return _building(self.path / LOCK) or Building(0, 0.0, "", 0, 0)
        except OSError:
            return None

    @property
    def stamp(self) -> tuple[int, int]:
        """Changes when another engine is to serve."""
        try:
            found = (self.path / ACTIVE).stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size

    def begin(self, key: EngineKey) -> None:
        """Counts a build, before it may be killed; `end` takes it back."""
        notes = self._notes()
        notes["begun"][key.digest] = notes["begun"].get(key.digest, 0) + 1
        self._write_notes(notes)

    def end(self, key: EngineKey, refused: str = "") -> None:
        """A build came to its end; `refused` says that what it gave failed the golden check."""
        notes = self._notes()
        notes["begun"].pop(key.digest, None)
        notes["refused"].pop(key.digest, None)
        if refused:
            notes["refused"][key.digest] = refused
        self._write_notes(notes)

    def begun(self, key: EngineKey) -> int:
        """How often a build from this key was begun and never ended, one under way included."""
        return int(self._notes()["begun"].get(key.digest, 0))

    def refused(self, key: EngineKey) -> str:
        """Why what is built from this key does not serve; "" where that is not known."""
        return str(self._notes()["refused"].get(key.digest, ""))

    # ---- realisations by ONNX Runtime -----------------------------------------------------------

    def checked(self, key: EngineKey) -> Parity | None:
        """What the golden check gave for a realisation without a file of its own."""
        try:
            return Parity(**_json(self.path / CHECKED / f"{key.digest}.json")["parity"])
        except (FormatError, TypeError, KeyError):
            return None

    def record(self, key: EngineKey, parity: Parity) -> None:
        folder = self.path / CHECKED
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
        document = {"format": FORMAT_VERSION, "key": key.document(), "parity": asdict(parity)}
        write_atomically(folder / f"{key.digest}.json", [_bytes(document)], steps=self._steps)

    def provider_cache(self, key: EngineKey) -> Path:
        """A folder that ONNX Runtime's TensorRT provider sees under this key alone."""
        folder = self.path / PROVIDER_CACHE / key.digest[: 2 * _STEM_DIGITS]
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    # ---- files ----------------------------------------------------------------------------------

    def _make(self) -> None:
        with translated(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def _write_sidecar(self, engine: Engine) -> None:
        path = self.plan_path(engine).with_suffix(".json")
        write_atomically(path, [_bytes(engine.document())], steps=self._steps)

    def _active(self) -> dict[str, dict[str, list[str]]]:
        """By space id and flavour: [active, previous]. Nothing where the file cannot be read."""
        try:
            document = _json(self.path / ACTIVE)["active"]
            return {
                str(space): {str(f): [str(stem) for stem in stems] for f, stems in slot.items()}
                for space, slot in document.items()
            }
        except (FormatError, KeyError, TypeError, AttributeError):
            return {}

    def _notes(self) -> dict[str, dict[str, Any]]:
        """By what is noted, then by a key's digest. Nothing where the file cannot be read."""
        notes: dict[str, dict[str, Any]] = {"begun": {}, "refused": {}}
        try:
            found = _json(self.path / BUILDS)
            notes["begun"] = {str(k): int(n) for k, n in found["begun"].items()}
            notes["refused"] = {str(k): str(why) for k, why in found["refused"].items()}
        except (FormatError, KeyError, TypeError, ValueError, AttributeError):
            pass
        return notes

    def _write_notes(self, notes: dict[str, dict[str, Any]]) -> None:
        document = {"format": FORMAT_VERSION, **notes}
        write_atomically(self.path / BUILDS, [_bytes(document)], steps=self._steps)

    def _write_active(self, active: dict[str, dict[str, list[str]]]) -> None:
        document = {"format": FORMAT_VERSION, "active": active}
        write_atomically(self.path / ACTIVE, [_bytes(document)], steps=self._steps)


def _building(path: Path) -> Building | None:
    """What the builder told last; None where that is just being written."""
    try:
        found = Building(**_json(path))
        return replace(found, done=int(found.done), total=int(found.total))
    except (FormatError, TypeError, ValueError):
        return None


def _json(path: Path) -> Any:
    """Raises FormatError where there is no such file, or it is no JSON."""
    try:
        if path.stat().st_size > SIDECAR_LIMIT_BYTES:
            raise FormatError(f"{path} is larger than 1 MiB", path=str(path))
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {path}: {error}", path=str(path)) from error


def _bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
