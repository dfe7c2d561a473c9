"""The box: every verb of Accrue, once. CLI, HTTP, console and MQTT are thin faces of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.bundle import Bundle, default_bundle_path
from accrue.device import Device, describe
from accrue.errors import AccrueError, Conflict, FutureVersion, NotFound, StoreCorrupt
from accrue.learn import SCALE, Calibration, Choice, Decision, State, choose, quantise
from accrue.learn.statistics import Rows
from accrue.service.settings import Settings
from accrue.store import (
    BackupInfo,
    ClassRow,
    Entry,
    Purged,
    Restored,
    Shot,
    Store,
    Teaching,
    backup,
    clean_name,
    read_info,
    restore,
)
from accrue.store.database import FILE_NAME
from accrue.store.store import Retain
from accrue.vision.decode import decode
from accrue.vision.encode import BundleEncoder
from accrue.vision.engines import EngineFolder, Serving, serve
from accrue.vision.engines.selection import ONNX_CPU
from accrue.vision.text import TextEncoder

Image = NDArray[np.uint8]
BATCH = 8
_THUMBNAIL_QUALITY = 80


@dataclass(frozen=True)
class Receipt:
    """One shot that is on the disk, or one image that was refused (then `shot` is "")."""

    shot: str
    source: str
    class_name: str
    rows: int
    error: AccrueError | None = None


@dataclass(frozen=True)
class Named:
    """A candidate by name; `p` as in `accrue.learn.Alternative`."""

    label: str
    p: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image; fields as in `accrue.learn.Decision`, classes by name.

    `error` says why there is no answer; the other fields are then empty.
    """

    source: str
    label: str
    verdict: str
    score: float
    margin: float
    alternatives: tuple[Named, ...]
    error: AccrueError | None = None


@dataclass(frozen=True)
class Learned:
    """What the store holds, in memory. Head and calibration are worked out when first asked for.

    Attributes:
        state: the sums. shots: (class id, int16 rows) of each kept shot. names: by class id.
        texts: by class id, float64 (dim,) of unit length, of each class that was taught by name.
    """

    state: State
    shots: list[tuple[str, Rows]]
    names: dict[str, str]
    settings: Settings
    texts: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @cached_property
    def choice(self) -> Choice:
        return choose(self.state, self.shots, self.settings.chosen_head())

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(self.choice.left_out, self.settings.reject)

    def decide(self, embeddings: NDArray[Any]) -> list[Decision]:
        """One decision for each embedding, float (n, dim)."""
        served = self.choice.served
        return [self.calibration.decide(scores, served.ids) for scores in served.scores(embeddings)]


class Box:
    """State folder, encoder bundle and settings of one device, and all that can be done with them.

    Nothing is opened before it is needed: listing classes loads no encoder.
    """

    def __init__(
        self, settings: Settings, *, remark: Callable[[str], object] = lambda _: None
    ) -> None:
        """`remark` is told, in a line, of what is not as it was expected but goes on."""
        self.settings = settings
        self._remark = remark
        self._store: Store | None = None
        self._learned: tuple[tuple[int, int], Learned] | None = None

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        self._learned = None  # its revision counts for that connection alone

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts ----------------------------------------------------------------------------------

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.open(self.settings.bundle or default_bundle_path())

    @cached_property
    def serving(self) -> Serving:
        """The encoder that serves here, and why no better one; its remark goes to `remark`."""
        settings = self.settings
        # On the CPU nothing has to be known of the device, which takes a while to ask.
        device = describe() if settings.encoder != ONNX_CPU else Device("", "")
        folder = EngineFolder(settings.engines_folder)
        threads = settings.threads or None
        found = serve(self.bundle, device, folder, wanted=settings.encoder, threads=threads)
        if found.remark:
            self._remark(found.remark)
        return found

    @property
    def encoder(self) -> BundleEncoder:
        return self.serving.encoder

    @cached_property
    def text_encoder(self) -> TextEncoder:
        return TextEncoder(self.bundle, threads=self.settings.threads or None)

    def store(self, *, create: bool = False) -> Store:
        """The store for writing. Without `create`, raises NotFound where nothing was taught."""
        if self._store is None or self._store.readonly:
            self.close()
            manifest = self.bundle.manifest if create else None
            self._store = self._open(
                space_id=manifest.space_id if manifest else None,
                dim=manifest.dim if manifest else None,
            )
        return self._store

    def reading(self) -> Store | None:
        """The store for reading, or None where nothing has been taught yet."""
        if self._store is None:
            if not os.path.lexists(self.settings.state / FILE_NAME):
                return None
            self._store = self._open(readonly=True)
        return self._store

    def _open(
        self, *, space_id: str | None = None, dim: int | None = None, readonly: bool = False
    ) -> Store:
        return Store.open(
            self.settings.state,
            space_id=space_id,
            dim=dim,
            budget=self.settings.budget,
            retain=self.settings.retain,
            readonly=readonly,
        )

    def learned(self) -> Learned:
        """The state and the head served from it, read again when the store has changed."""
        store = self.reading()
        if store is None:
            manifest = self.bundle.manifest
            return Learned(State(manifest.space_id, manifest.dim), [], {}, self.settings)
        revision = store.revision
        if self._learned is None or self._learned[0] != revision:
            state = State(store.space_id, store.dim)
            shots: list[tuple[str, Rows]] = []
            names = {}
            texts = {}
            for found in store.rows_by_class():
                names[found.id] = found.name
                state.add(found.id, found.rows)
                if found.folded is not None:
                    state.add_statistics(found.id, found.folded)
                shots += [(found.id, rows) for _, rows in found.by_shot()]
                if found.text is not None:
                    texts[found.id] = found.text.astype(np.float64) / SCALE
            self._learned = (revision, Learned(state, shots, names, self.settings, texts))
        return self._learned[1]

    # ---- teaching and asking --------------------------------------------------------------------

    def teach(
        self,
        name: str,
        images: Iterable[tuple[str, Path | Image]],
        *,
        actor: str | None = None,
    ) -> Iterator[Receipt]:
        """Teaches one shot per image; yields a receipt once it is on the disk.

        All shots of one call are one entry of the journal. An image that cannot be used is
        reported by its receipt, and the others are taught.

        Args:
            images: (source, path or uint8 (h, w, 3) RGB) of each.
        """
        name = clean_name(name)
        self.require_same_space()
        teaching: Teaching | None = None
        for source, image, row in self._embedded(images):
            if isinstance(row, AccrueError):
                yield Receipt("", source, teaching.class_name if teaching else name, 0, row)
                continue
            store = self.store(create=True)  # not before there is something to keep
            if teaching is None:
                teaching = store.begin_teach(name, actor=actor or self.settings.actor)
            rows = quantise(row[None])
            shot = store.add_shot(teaching, rows, source=source, thumb=self._thumbnail(image))
            yield Receipt(shot, source, teaching.class_name, len(rows))

    def teach_by_name(self, name: str, prompt: str | None = None) -> Entry:
        """Teaches a class by its name alone, or by another text about it; again, it replaces that.

        Args:
            prompt: taken as it is, instead of the name in the bundle's templates.

        Raises:
            NotFound: the bundle has no text part.
            UsageError: not a name, or a text that is too long for the text tower.
            AccrueError: the package tokenizers is missing, and the name is not in the vocabulary.
        """
        name = clean_name(name)
        self.require_same_space()
        if prompt is None:
            vector = self.text_encoder.embed([name])
        else:
            vector = self.text_encoder.tower.embed([prompt])
        store = self.store(create=True)
        return store.teach_by_name(
            name, quantise(vector)[0], prompt=prompt, actor=self.settings.actor
        )

    def predict(self, images: Iterable[tuple[str, Path | Image]]) -> Iterator[Prediction]:
        """Says what each image shows."""
        self.require_same_space()
        learned = self.learned()
        for source, _, row in self._embedded(images):
            if isinstance(row, AccrueError):
                yield Prediction(source, "", "", float("nan"), float("nan"), (), row)
                continue
            yield named(source, learned.decide(row[None])[0], learned.names)

    def embed(self, images: Iterable[tuple[str, Path | Image]]) -> Iterator[tuple[str, Any]]:
        """(source, float32 (dim,) embedding or AccrueError) of each image."""
        for source, _, row in self._embedded(images):
            yield source, row

    def _embedded(
        self, images: Iterable[tuple[str, Path | Image]]
    ) -> Iterator[tuple[str, Image | None, NDArray[np.float32] | AccrueError]]:
        for batch in _batches(images):
            ready: list[tuple[str, Image | None, AccrueError | None]] = []
            for source, image in batch:
                try:
                    ready.append((source, self._decoded(image), None))
                except AccrueError as error:
                    ready.append((source, None, error))
            rows = iter(self.encoder.encode([image for _, image, _ in ready if image is not None]))
            for source, pixels, failed in ready:
                yield source, pixels, failed if failed is not None else next(rows)

    def _decoded(self, image: Path | Image) -> Image:
        if isinstance(image, Path):
            return decode(image, short_side=self.bundle.manifest.preprocess.resize)
        return image

    def _thumbnail(self, image: Image | None) -> bytes | None:
        if image is None or self.settings.thumbnails == 0:
            return None
        import PIL.Image

        small = PIL.Image.fromarray(image)
        small.thumbnail((self.settings.thumbnails,) * 2)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
        return buffer.getvalue()

    def require_same_space(self) -> None:
        """Raises SpaceMismatch where what was taught is of another encoder than the one in use."""
        store = self.reading()
        if store is not None:
            store.require_same(self.bundle.manifest.space_id, self.bundle.manifest.dim)

    # ---- classes --------------------------------------------------------------------------------

    def classes(self) -> list[ClassRow]:
        store = self.reading()
        return [] if store is None else store.classes()

    def show(self, name: str) -> tuple[ClassRow, list[Shot]]:
        """A class and its shots. Raises NotFound with the nearest names."""
        store = self._taught()
        return store.resolve(name), store.shots(name)

    def rename(self, old: str, new: str) -> Entry:
        return self._changing().rename(old, new, actor=self.settings.actor)

    def merge(self, name: str, into: str) -> Entry:
        return self._changing().merge(name, into, actor=self.settings.actor)

    def remove(self, name: str) -> Entry:
        return self._changing().remove(name, actor=self.settings.actor)

    def purge(self, name: str) -> Purged:
        return self._changing().purge(name, actor=self.settings.actor)

    def relabel(self, shots: Sequence[str], name: str) -> Entry:
        return self._changing().relabel(shots, name, actor=self.settings.actor)

    def split(self, name: str, shots: Sequence[str], new: str) -> Entry:
        return self._changing().split(name, shots, new, actor=self.settings.actor)

    def retention(self, name: str, retain: Retain | None, budget: int | None) -> Entry:
        return self._changing().set_retention(
            name, retain=retain, budget=budget, actor=self.settings.actor
        )

    # ---- journal, backup ------------------------------------------------------------------------

    def history(self, limit: int | None = None) -> list[Entry]:
        store = self.reading()
        return [] if store is None else store.history(limit)

    def undo(self, seq: int | None = None) -> Entry:
        return self._changing().undo(seq, actor=self.settings.actor)

    def backup(self, file: Path, *, thumbnails: bool = True) -> BackupInfo:
        return backup(self._taught(), file, thumbnails=thumbnails)

    def restore(self, file: Path, *, replace: bool = False) -> Restored:
        """Puts a backup in place. Raises Conflict where classes are there and not `replace`."""
        info = read_info(file)
        present = "" if replace else self._present()
        if present:
            raise Conflict(
                f"{self.settings.state} {present}; the backup would put its "
                f"{info.classes} classes in that place",
                hint="add --yes; the present database is set aside, not deleted",
            )
        self.close()
        return restore(file, self.settings.state)

    def _present(self) -> str:
        """What stands in the way of a restore; nothing where nothing would be replaced."""
        try:
            classes = self.classes()
        except NotFound:  # an empty file
            return ""
        except (StoreCorrupt, FutureVersion):
            return "holds a database that cannot be read"
        return f"already holds {len(classes)} classes" if classes else ""

    def _changing(self) -> Store:
        self._taught()
        return self.store()

    def _taught(self) -> Store:
        store = self.reading()
        if store is None:
            raise NotFound(
                f"nothing has been taught in {self.settings.state} yet",
                hint="teach a class: accrue class teach NAME FILE...",
                path=str(self.settings.state),
            )
        return store


def _batches(images: Iterable[tuple[str, Path | Image]]) -> Iterator[list[tuple[str, Any]]]:
    """Files by the batch; a frame at once, because the next one may be long in coming."""
    batch: list[tuple[str, Any]] = []
    for item in images:
        batch.append(item)
        if len(batch) == BATCH or not isinstance(item[1], Path):
            yield batch
            batch = []
    if batch:
        yield batch


def named(source: str, decision: Decision, names: dict[str, str]) -> Prediction:
    return Prediction(
        source=source,
        label=names.get(decision.class_id, decision.class_id),
        verdict=decision.verdict,
        score=decision.score,
        margin=decision.margin,
        alternatives=tuple(
            Named(names.get(a.class_id, a.class_id), a.p) for a in decision.alternatives
        ),
    )
