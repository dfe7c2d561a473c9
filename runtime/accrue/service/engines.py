"""The verbs of engines: build, status, verify and clean."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from accrue.board import Board, EngineAdvice, which
from accrue.bundle import ENCODER, Bundle, default_bundle_path
from accrue.device import Device, describe
from accrue.errors import BundleError, EngineError, NotFound, StoreFull, UsageError
from accrue.service.settings import Settings
from accrue.vision.encode import golden_check
from accrue.vision.engines import (
    FLAVOURS,
    Dropped,
    Engine,
    EngineFolder,
    EngineKey,
    Profile,
    build,
    cannot_build,
    choose,
    load_module,
    mismatch,
    open_engine,
    serve,
)
from accrue.vision.engines.trt import Step, flags_of

# Memory of a build beside its workspace; docs/engines.md, "Memory", says what was measured.
BUILD_ONNX_SIZES, BUILD_MIB = 4, 256
# Of the disk; docs/engines.md, "Memory": engines are about as large as their ONNX file.
ROOM_ONNX_SIZES, ROOM_BYTES = 2, 64 << 20
MOST_TRIES = 5  # of builds that were killed in their midst, as by a want of memory
FP16, FP32 = "fp16", "fp32"


@dataclass(frozen=True)
class Built:
    """A new engine. `unchecked` says why it could not be checked and so does not serve yet."""

    engine: Engine
    path: Path
    unchecked: str = ""


@dataclass(frozen=True)
class Status:
    """What serves on this device, and why nothing better.

    Attributes:
        serves: the candidate. dropped: those that do not.
        engines: each with its place ("active", "previous" or "") and why it does not fit ("").
    """

    device: Device
    serves: str
    dropped: tuple[Dropped, ...]
    engines: tuple[tuple[Engine, str, str], ...]
    unreadable: tuple[Path, ...]


class Engines:
    """The engines of one device for the bundle that its settings name."""

    def __init__(self, settings: Settings, device: Device | None = None) -> None:
        self.settings = settings
        self.bundle = Bundle.open(settings.bundle or default_bundle_path())
        self.folder = EngineFolder(settings.engines_folder)
        self.device = device or describe()

    @cached_property
    def board(self) -> Board | None:
        """The board in force; None where none is known."""
        return which(self.settings.board, self.device).board

    @property
    def advice(self) -> EngineAdvice:
        """What the description of the board would build."""
        return self.board.engine if self.board else EngineAdvice()

    def build(
        self,
        *,
        flavour: str | None = None,
        profile: Profile | None = None,
        workspace_mib: int | None = None,
        precision: str | None = None,
        step: Step = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Built:
        """Builds an engine, checks it against the golden images, and lets it serve.

        Args:
            flavour: of TensorRT; default: the first that can build here.
            profile: batch sizes. workspace_mib: most scratch memory of a layer.
            precision: ``fp16`` or ``fp32``. Of these three, the default is the board's; its fp16
                counts where the bundle carries it.

        Raises:
            EngineError: TensorRT is absent, or cannot build.
            BundleError: TensorRT cannot take the ONNX, or the engine failed the golden check.
            Cancelled, Conflict, StoreError: nothing was written.
        """
        flavour = flavour or self.flavour()
        if why := cannot_build(self.device, flavour):
            raise EngineError(f"no {flavour} engine can be built here: {why.reason}", hint=why.hint)
        profile = profile or Profile(*self.advice.batch)
        workspace_mib = workspace_mib or self.advice.workspace_mib
        trt = load_module(flavour)
        file = self.file(precision)
        manifest = self.bundle.manifest
        self._require_room(manifest.files[file].bytes)
        with self.folder.lock() as tell:
            started = time.monotonic()

            def told(what: str, done: int, total: int) -> None:
                tell(what, done, total)
                step(what, done, total)

            version = self.device.version_of(flavour) or trt.__version__
            key = self._key(file, flavour, version, profile, workspace_mib)
            self.folder.begin(key)
            try:
                plan = build(
                    trt,
                    self.bundle.read(file),
                    manifest.size,
                    manifest.dim,
                    profile=profile,
                    workspace_mib=workspace_mib,
                    step=told,
                    cancelled=cancelled,
                )
            finally:
                self.folder.end(key)
            engine = self.folder.write(
                plan,
                key,
                encoder=manifest.name,
                space_id=manifest.space_id,
                file=file,
                build_s=time.monotonic() - started,
            )
            try:
                engine = self._check(engine)
            except BundleError as error:
                self.folder.remove(engine)
                self.folder.end(key, refused=error.message)
                raise
            except EngineError as error:  # it cannot be loaded here, as without a driver
                return Built(engine, self.folder.plan_path(engine), error.message)
        return Built(engine, self.folder.plan_path(engine))

    def needed(
        self,
        *,
        flavour: str | None = None,
        profile: Profile | None = None,
        workspace_mib: int | None = None,
        precision: str | None = None,
    ) -> tuple[str, str]:
        """What a device has to build by itself at its start: an engine where one would serve and
        none does.

        One that is there and was not checked yet is checked instead. What failed the golden check
        is not built again, till something of its key changes; nor what was killed five times.

        Args:
            As of `build`.

        Returns:
            The flavour to build and "", or "" and in a line why none.

        Raises:
            BundleError: an engine that was there failed the golden check.
        """
        selection, fitting = choose(self.bundle, self.device, self.folder, self.settings.encoder)
        reasons = []
        for one in FLAVOURS if flavour is None else [flavour]:
            if one in fitting:
                return "", f"engine {fitting[one].stem} fits this device and was checked"
            drop = selection.why_not(one)
            if drop is not None and drop.filter != "engine":
                reasons.append(drop.reason)
                continue
            if checked := self._checked_now(one):
                return "", checked
            version = self.device.version_of(one)
            key = self._key(self.file(precision), one, version, profile, workspace_mib)
            if reason := self.folder.refused(key):
                return "", f"an engine was built here before, and did not serve: {reason}"
            if (times := self.folder.begun(key)) >= MOST_TRIES:
                return "", (
                    f"a build was begun {times} times here and never ended, for want of memory or "
                    "power; `accrue engine build` tries it again"
                )
            return one, ""
        return "", "; ".join(dict.fromkeys(reasons))

    def _checked_now(self, flavour: str) -> str:
        """Checks an engine of this device that was not checked yet; says so, or ""."""
        for engine in self.folder.engines():
            if engine.key.flavour == flavour and not self._misfit(engine):
                try:
                    self._check(engine)
                except EngineError:  # altered on the disk, or not to be loaded: to be built anew
                    continue
                return f"engine {engine.stem} passed the golden check and serves"
        return ""

    def _key(
        self,
        file: str,
        flavour: str,
        version: str,
        profile: Profile | None,
        workspace_mib: int | None,
    ) -> EngineKey:
        profile = profile or Profile(*self.advice.batch)
        sha256 = self.bundle.manifest.files[file].sha256
        flags = flags_of(workspace_mib or self.advice.workspace_mib)
        return EngineKey.of(self.device, sha256, flavour, version, profile, flags)

    def _require_room(self, onnx_bytes: int) -> None:
        """Raises StoreFull rather than finding out after minutes."""
        folder = self.folder.path
        while not folder.exists():
            folder = folder.parent
        free, needed = shutil.disk_usage(folder).free, ROOM_ONNX_SIZES * onnx_bytes + ROOM_BYTES
        if free < needed:
            raise StoreFull(
                f"{free / 2**20:,.0f} MiB are free at {folder}; an engine of this encoder takes up "
                f"to {needed / 2**20:,.0f}",
                hint="make room: accrue engine clean; or another disk: setting engines",
                path=str(folder),
                found=free,
                expected=needed,
            )

    def flavour(self) -> str:
        """The first that can build here. Raises EngineError with the reason of each."""
        reasons = [cannot_build(self.device, flavour) for flavour in FLAVOURS]
        for flavour, why in zip(FLAVOURS, reasons, strict=True):
            if why is None:
                return flavour
        raise EngineError(
            f"no engine can be built here: {'; '.join(why.reason for why in reasons if why)}",
            hint="ONNX Runtime serves without one; accrue engine status shows more",
        )

    def file(self, precision: str | None) -> str:
        """The ONNX file of the bundle to build from."""
        precisions = self.bundle.manifest.precisions
        if (precision or self.advice.precision) == FP32 or not (precision or FP16 in precisions):
            return ENCODER
        if FP16 not in precisions:
            raise UsageError(
                f"bundle {self.bundle.path} carries no fp16 encoder",
                hint="export the bundle again, or build with --precision fp32",
            )
        return precisions[FP16].file

    def status(self) -> Status:
        """Opens the encoder, because only then it is known what serves."""
        settings = self.settings
        serving = serve(self.bundle, self.device, self.folder, wanted=settings.encoder)
        space_id = self.bundle.manifest.space_id
        places: dict[str, str] = {}
        for flavour in FLAVOURS:
            for place, engine in enumerate(self.folder.serving(space_id, flavour)):
                places[engine.stem] = ("active", "previous")[place]
        engines = tuple(
            (engine, places.get(engine.stem, ""), self._misfit(engine))
            for engine in self.folder.engines()
        )
        unreadable = tuple(self.folder.unreadable())
        return Status(self.device, serving.candidate, serving.dropped, engines, unreadable)

    def verify(self, stem: str | None = None) -> Engine:
        """Loads an engine, checks it against the golden images, and lets it serve.

        One that fails serves no longer.

        Args:
            stem: which one; default: the newest that fits this device and encoder.

        Raises:
            NotFound: there is none.
            EngineError, BundleError: it does not load, or failed the check.
        """
        found = [e for e in self.folder.engines() if stem in (None, e.stem)]
        fitting = [e for e in found if not self._misfit(e)]
        if not found or (stem is None and not fitting):
            reason = f": it was {self._misfit(found[0])}" if found else ""
            raise NotFound(
                f"no engine {stem or 'for this encoder and device'} in {self.folder.path}{reason}",
                hint="build one: accrue engine build",
                path=str(self.folder.path),
            )
        if not fitting:
            raise EngineError(f"engine {found[0].stem} was {self._misfit(found[0])}")
        return self._check(fitting[0])

    def clean(self, *, everything: bool = False) -> list[Path]:
        with self.folder.lock():
            return self.folder.clean(everything=everything)

    def needed_bytes(self) -> int:
        """Free memory that a build is expected to take."""
        file = self.bundle.manifest.files[self.file(None)]
        return BUILD_ONNX_SIZES * file.bytes + ((BUILD_MIB + self.advice.workspace_mib) << 20)

    def _misfit(self, engine: Engine) -> str:
        if engine.space_id != self.bundle.manifest.space_id:
            return f"built from another encoder ({engine.encoder})"
        return mismatch(engine, self.bundle, self.device)

    def _check(self, engine: Engine) -> Engine:
        encoder = open_engine(self.bundle, self.folder, engine)
        try:
            parity = golden_check(encoder, self.bundle)
        except BundleError:
            self.folder.deactivate(engine)
            raise
        finally:
            encoder.close()
        return self.folder.activate(engine, parity, on=self.device.gpu_title)
