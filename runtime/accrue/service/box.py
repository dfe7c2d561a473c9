"""The box: every verb of Accrue, once. CLI, HTTP, console and MQTT are thin faces of it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.bundle import Bundle, default_bundle_path
from accrue.device import Device, describe
from accrue.errors import AccrueError, Conflict, FutureVersion, NotFound, Refused, StoreCorrupt
from accrue.learn import (
    Calibration,
    Choice,
    Decision,
    LeftOut,
    State,
    choose,
    leave_one_out,
    quantise,
)
from accrue.learn.clusters import clusters
from accrue.learn.decision import MOST_TOLD, UNKNOWN
from accrue.learn.explain import nearest
from accrue.learn.groups import LEAST_SHOTS, two_groups
from accrue.learn.guard import compare
from accrue.learn.quality import quality
from accrue.learn.refuse import Refusals
from accrue.learn.statistics import Floats, Rows
from accrue.learn.suspects import suspects
from accrue.service.burst import Burst
from accrue.service.coach import Report, Screen, Skipped, report
from accrue.service.guarded import measured
from accrue.service.once import once
from accrue.service.recall import forget, keep, recalled
from accrue.service.settings import Settings
from accrue.service.unknown import Moment, Queue, present
from accrue.store import (
    BackupInfo,
    ClassRow,
    ClassRows,
    Entry,
    Purged,
    Refusal,
    Restored,
    Rotated,
    Shot,
    Store,
    Teaching,
    backup,
    backup_into,
    clean_name,
    clean_prompt,
    read_info,
    restore,
    shown,
)
from accrue.store.database import FILE_NAME
from accrue.store.store import Retain
from accrue.vision.decode import decode
from accrue.vision.encode import BundleEncoder
from accrue.vision.engines import EngineFolder, Serving, serve
from accrue.vision.engines.selection import ONNX_CPU
from accrue.vision.text import TextEncoder
from accrue.vision.thumbnail import thumbnail as thumbnail
from accrue.vision.views import short_side

Image = NDArray[np.uint8]
Given = Path | bytes | Image  # an image file, its content, or uint8 (h, w, 3) RGB
BATCH = 8


@dataclass(frozen=True)
class Receipt:
    """One shot that is on the disk, or one image that is not (then `shot` is "").

    Attributes:
        error: why it could not be used. skipped: why it was left out.
    """

    shot: str
    source: str
    class_name: str
    rows: int
    error: AccrueError | None = None
    skipped: Skipped | None = None


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
class NearShot:
    """A kept shot near to a photo; `cosine` as in `accrue.learn.explain.Near`."""

    shot: Shot
    cosine: float


@dataclass(frozen=True)
class Reason:
    """A class that was in question, and its kept shots nearest to the photo, nearest first."""

    label: str
    shots: tuple[NearShot, ...]


@dataclass(frozen=True)
class Explanation:
    """An answer and its why.

    Attributes:
        reasons: of the winner and of the runner-up, where there are such.
        refused: classes that were no answer because the photo is nearer to what they are not.
    """

    prediction: Prediction
    reasons: tuple[Reason, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class SuspectShot:
    """A shot to look at; `margin` as in `accrue.learn.suspects.Suspect`."""

    shot: Shot
    label: str
    looks_like: str
    margin: float


@dataclass(frozen=True)
class SplitSuggestion:
    """Two groups of a class's shots; fields as in `accrue.learn.groups.Groups`."""

    label: str
    first: tuple[Shot, ...]
    second: tuple[Shot, ...]
    separation: float
    advisable: bool


@dataclass(frozen=True)
class UnknownGroup:
    """Moments that look alike and nobody named.

    Attributes:
        moments: oldest first.
        nearest: display name of the class that most of them are nearest to; "" if none.
    """

    moments: tuple[Moment, ...]
    nearest: str


@dataclass(frozen=True)
class Learned:
    """What the store holds, in memory. Head and calibration are worked out when first asked for.

    Attributes:
        state: the sums. shots: (class id, int16 rows) of each kept shot. names: by class id.
        shot_ids: of each kept shot. refused: int16 rows that are not of a class, by its id.
        texts: by class id, float64 (dim,) of unit length, of each class that was taught by name.
        evidence: what it was made of. earlier: a choice of before, to be solved for this state
            instead of choosing again; its left-out scores are kept.
        disabled: ids of classes that are not answered. All of them is in the fields above; head,
            calibration, left-out scores and refusals are those of `answering`.
        folder: the state folder, where a choice may be kept; None: it is not looked for.
    """

    state: State
    shots: list[tuple[str, Rows]]
    names: dict[str, str]
    settings: Settings
    shot_ids: tuple[str, ...] = ()
    refused: Mapping[str, Rows] = field(default_factory=dict)
    texts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    evidence: tuple[ClassRows, ...] = ()
    earlier: Choice | None = None
    disabled: frozenset[str] = frozenset()
    folder: Path | None = None

    @property
    def answering(self) -> Learned:
        """The same without the disabled classes: bit for bit what it would be without them."""
        return self.enabled if self.disabled else self  # kept in itself it would never be freed

    @once
    def enabled(self) -> Learned:
        gone = self.disabled
        state = self.state.copy()
        for one in gone:
            if one in state:
                state.remove(one)
        _ = state.total  # worked out here, because threads that read it must not
        kept = [k for k, (owner, _) in enumerate(self.shots) if owner not in gone]
        return replace(
            self,
            state=state,
            shots=[self.shots[k] for k in kept],
            names={c: name for c, name in self.names.items() if c not in gone},
            shot_ids=tuple(self.shot_ids[k] for k in kept),
            refused={c: rows for c, rows in self.refused.items() if c not in gone},
            texts={c: text for c, text in self.texts.items() if c not in gone},
            evidence=tuple(one for one in self.evidence if one.id not in gone),
            disabled=frozenset(),
        )

    @once
    def choice(self) -> Choice:
        if self.disabled:
            return self.answering.choice
        settings = self.settings
        if self.earlier is not None:
            return replace(self.earlier, served=self.earlier.head.solve(self.state))
        return self.kept_choice or choose(
            self.state,
            self.shots,
            settings.chosen_head(),
            texts=self.texts,
            views=settings.predict_views,
            random_features=settings.random_features,
        )

    @once
    def kept_choice(self) -> Choice | None:
        """What was chosen for just this evidence before, where that is kept."""
        return recalled(self)

    @once
    def calibration(self) -> Calibration:
        if self.disabled:
            return self.answering.calibration
        return Calibration(self.choice.left_out, self.settings.reject)

    def decide(self, embeddings: NDArray[Any]) -> list[Decision]:
        """One decision for each embedding, float (n, dim)."""
        served = self.choice.served
        if not self.refusals:
            return [self._best(one) for one in embeddings]
        scores = served.scores(embeddings)
        allowed = self.refusals.allowed(embeddings, served.ids)
        return [self._decided(one, may) for one, may in zip(scores, allowed, strict=True)]

    def _best(self, embedding: NDArray[Any]) -> Decision:
        served = self.choice.served
        best, scores = served.top(embedding, MOST_TOLD)
        return self.calibration.decide(scores, [served.ids[k] for k in best])

    def _decided(self, scores: Floats, allowed: NDArray[np.bool_]) -> Decision:
        """The answer among the classes that are allowed; unknown where none is."""
        ids = self.choice.served.ids
        left = self.calibration.decide(
            scores[allowed], [c for c, may in zip(ids, allowed, strict=True) if may]
        )
        return replace(left, verdict=UNKNOWN, score=0.0) if ids and not allowed.any() else left

    @once
    def left_out(self) -> LeftOut:
        """Each kept shot left out by itself: what the coach and the guard go by.

        Its numbers of shots are those of `answering`.
        """
        if self.disabled:
            return self.answering.left_out
        return leave_one_out(self.choice.served, self.shots, self.settings.predict_views)

    @once
    def refusals(self) -> Refusals:
        if self.disabled:
            return self.answering.refusals
        kept = {c: self.queries_of(c) for c in self.refused}
        return Refusals(self.refused, kept, {c: self.state.sum(c) for c in self.refused})

    def queries_of(self, class_id: str) -> NDArray[np.float64]:
        """What queries of the kept shots of a class are, in steps of a row: float64 (n, dim)."""
        views = self.settings.predict_views
        found = [rows[:views].mean(axis=0) for c, rows in self.shots if c == class_id]
        return np.array(found).reshape(-1, self.state.dim)

    @property
    def classes_of_shots(self) -> list[str]:
        return [class_id for class_id, _ in self.shots]

    def answered_by(self, choice: Choice) -> Learned:
        """The same evidence under the head that was chosen for other evidence; see `earlier`."""
        return replace(self, earlier=choice)


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
        self._encoders: list[Serving] = []  # none yet, or the one that serves; shared with others
        self._store: Store | None = None
        self._learned: tuple[tuple[int, int], Learned] | None = None
        self.sharing: Callable[[Learned], Learned] | None = None  # asked with what was just read

    def beside(self) -> Box:
        """Another box of the same state for another thread; the two share one encoder."""
        other = Box(self.settings, remark=self._remark)
        _ = self.serving
        other.__dict__.update(bundle=self.bundle, _encoders=self._encoders)
        return other

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._learned is not None:
            keep(self._learned[1])
        self._learned = None  # its revision counts for that connection alone

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts ----------------------------------------------------------------------------------

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.open(self.settings.bundle or default_bundle_path())

    @property
    def serving(self) -> Serving:
        """The encoder that serves here, and why no better one; its remark goes to `remark`."""
        if not self._encoders:
            self._encoders.append(self._serve())
        return self._encoders[0]

    def serve_anew(self) -> bool:
        """Looks again for the best encoder, as after an engine was built.

        What is better serves from the next photo on, in the boxes beside this one, too; what is
        under way ends with the one before. Returns whether another one serves now.

        Raises:
            AccrueError: none opens; the one before goes on.
        """
        found, before = self._serve(), self.serving
        if (found.candidate, found.engine) == (before.candidate, before.engine):
            return False
        self._encoders[0] = found
        return True

    def _serve(self) -> Serving:
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
        store = Store.open(
            self.settings.state,
            space_id=space_id,
            dim=dim,
            budget=self.settings.budget,
            retain=self.settings.retain,
            memory=self.settings.memory,
            readonly=readonly,
        )
        if not readonly and store.joined is not None:
            try:
                _give_voice(store)
            except BaseException:
                store.close()
                raise
        return store

    def learned(self) -> Learned:
        """The state and the head served from it, read again when the store has changed."""
        store = self.reading()
        if store is None:
            manifest = self.bundle.manifest
            return Learned(State(manifest.space_id, manifest.dim), [], {}, self.settings)
        revision = store.revision
        if self._learned is None or self._learned[0] != revision:
            before = None if self._learned is None else self._learned[1]
            found = self._read(store, before)
            self._learned = (revision, found if self.sharing is None else self.sharing(found))
        return self._learned[1]

    def exchange(self, by: Callable[[Learned], Learned]) -> None:
        """Puts what another thread has worked out of the same evidence in the place of ours."""
        if self._learned is not None:
            self._learned = self._learned[0], by(self._learned[1])

    def read_now(self) -> Learned:
        """What the store holds within the transaction under way."""
        return self._read(self.store())

    def _read(self, store: Store, before: Learned | None = None) -> Learned:
        """What the store holds. Rows and sums of classes that are as they were are those of
        `before`."""
        evidence = tuple(store.rows_by_class(before.evidence if before is not None else ()))
        state = summed(evidence, before, State(store.space_id, store.dim))
        shots: list[tuple[str, Rows]] = []
        shot_ids: list[str] = []
        names, refused, texts = {}, {}, {}
        for found in evidence:
            names[found.id] = found.name
            shots += [(found.id, rows) for _, rows in found.by_shot()]
            shot_ids += found.shot_ids
            if len(found.refused) and found.id in state:
                refused[found.id] = found.refused
            if found.text is not None:
                row = found.text.astype(np.float64)
                texts[found.id] = row / np.linalg.norm(row)
        return Learned(
            state,
            shots,
            names,
            self.settings,
            tuple(shot_ids),
            refused,
            texts,
            evidence,
            disabled=frozenset(found.id for found in evidence if found.disabled),
            folder=self.settings.state,
        )

    # ---- teaching and asking --------------------------------------------------------------------

    def teach(
        self,
        name: str,
        images: Iterable[tuple[str, Given]],
        *,
        actor: str | None = None,
    ) -> Iterator[Receipt]:
        """Teaches one shot per image; yields a receipt once it is on the disk.

        All shots of one call are one entry of the journal. An image that cannot be used, or that
        settings `duplicates` and `blur` leave out, is reported by its receipt, and the others are
        taught.

        Args:
            images: (source, path, content of a file, or uint8 (h, w, 3) RGB) of each.
        """
        name = clean_name(name)
        self.require_same_space()
        teaching: Teaching | None = None
        screen: Screen | None = None
        for source, image, row in self._embedded(images, self.settings.views):
            if isinstance(row, AccrueError):
                yield Receipt("", source, teaching.class_name if teaching else name, 0, row)
                continue
            rows = quantise(row)
            screen = screen or self._screen(name)
            if skipped := screen.skips(image, rows):
                label = teaching.class_name if teaching else name
                yield Receipt("", source, label, 0, skipped=skipped)
                continue
            store = self.store(create=True)  # not before there is something to keep
            if teaching is None:
                teaching = store.begin_teach(name, actor=actor or self.settings.actor)
            shot = store.add_shot(teaching, rows, source=source, thumb=self._thumbnail(image))
            screen.keep(shot, rows)
            yield Receipt(shot, source, teaching.class_name, len(rows))

    def burst(self) -> Burst:
        """An empty burst, to be fed frames and taught by `teach_burst`."""
        self.require_same_space()
        return Burst(self.encoder, self.bundle, self.settings)

    def teach_burst(
        self,
        name: str,
        burst: Burst,
        *,
        keep: Sequence[int] | None = None,
        source: str = "burst",
        actor: str | None = None,
    ) -> Receipt:
        """Teaches a burst as one shot, labelled as a whole; the receipt says that it is on disk.

        Args:
            keep: numbers of the frames that it is made of; None for those that the burst keeps.
            source: where the frames are from.

        Raises:
            NotFound: a number that is no frame to choose. Refused: no frame is left.
        """
        name = clean_name(name)
        self.require_same_space()
        rows = burst.rows(keep)
        if skipped := self._screen(name).skips(None, rows):
            return Receipt("", source, name, 0, skipped=skipped)
        store = self.store(create=True)
        teaching = store.begin_teach(name, actor=actor or self.settings.actor)
        pixels = self.settings.thumbnails
        thumb = burst.picture(keep, pixels) if pixels else None
        shot = store.add_shot(teaching, rows, source=source, thumb=thumb)
        return Receipt(shot, source, teaching.class_name, len(rows))

    def _screen(self, name: str) -> Screen:
        """What the class holds already, to hold new photos against."""
        store = self.reading()
        kept: list[tuple[str, Rows]] = []
        if store is not None and self.settings.duplicates < 1:
            learned = self.learned()
            try:
                class_id = store.resolve(name).id
            except NotFound:
                class_id = ""
            pairs = zip(learned.shot_ids, learned.shots, strict=True)
            kept = [(shot, rows) for shot, (owner, rows) in pairs if owner == class_id]
        return Screen(kept, self.settings.duplicates, self.settings.blur)

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
        prompt = None if prompt is None else clean_prompt(prompt)
        self.require_same_space()
        if prompt is None:
            vector = self.text_encoder.embed([name])
        else:
            vector = self.text_encoder.tower.embed([prompt])
        store = self.store(create=True)
        return store.teach_by_name(
            name, quantise(vector)[0], prompt=prompt, actor=self.settings.actor
        )

    def predict(self, images: Iterable[tuple[str, Given]]) -> Iterator[Prediction]:
        """Says what each image shows."""
        self.require_same_space()
        learned = self.learned()
        for source, _, row in self._asked(images):
            if isinstance(row, AccrueError):
                yield Prediction(source, "", "", float("nan"), float("nan"), (), row)
                continue
            yield named(source, learned.decide(row[None])[0], learned.names)

    def why(self, images: Iterable[tuple[str, Given]], *, most: int = 3) -> Iterator[Explanation]:
        """What each image shows, and the kept shots that speak for it and for the runner-up."""
        self.require_same_space()
        learned = self.learned()
        store = self.reading()
        for source, _, row in self._asked(images):
            if isinstance(row, AccrueError):
                nothing = Prediction(source, "", "", float("nan"), float("nan"), (), row)
                yield Explanation(nothing, (), ())
                continue
            decision = learned.decide(row[None])[0]
            served = learned.choice.served
            allowed = learned.refusals.allowed(row[None], served.ids)[0]
            scores = served.scores(row[None])[0]
            order = [k for k in np.argsort(-scores, kind="stable") if allowed[k]][:2]
            reasons = []
            for class_id in (served.ids[k] for k in order):
                near = nearest(row, learned.shots, class_id, most, self.settings.predict_views)
                shots = tuple(
                    NearShot(store.shot(learned.shot_ids[n.shot]), n.cosine)
                    for n in near
                    if store is not None
                )
                reasons.append(Reason(learned.names[class_id], shots))
            refused = [
                learned.names[c] for c, may in zip(served.ids, allowed, strict=True) if not may
            ]
            yield Explanation(
                named(source, decision, learned.names), tuple(reasons), tuple(refused)
            )

    def embed(
        self, images: Iterable[tuple[str, Given]], views: int = 1
    ) -> Iterator[tuple[str, Any]]:
        """(source, float32 (views, dim) unit-length embeddings or AccrueError) of each image."""
        for source, _, row in self._embedded(images, views):
            yield source, row

    def _asked(
        self, images: Iterable[tuple[str, Given]]
    ) -> Iterator[tuple[str, Image | None, NDArray[np.float32] | AccrueError]]:
        """As `_embedded`, with the mean of the views that a query is made of: float32 (dim,)."""
        for source, image, rows in self._embedded(images, self.settings.predict_views):
            if isinstance(rows, AccrueError):
                yield source, image, rows
            else:
                yield source, image, rows.mean(axis=0)

    def _embedded(
        self, images: Iterable[tuple[str, Given]], views: int
    ) -> Iterator[tuple[str, Image | None, NDArray[np.float32] | AccrueError]]:
        for batch in _batches(images):
            ready: list[tuple[str, Image | None, AccrueError | None]] = []
            for source, image in batch:
                try:
                    ready.append((source, self._decoded(source, image, views), None))
                except AccrueError as error:
                    ready.append((source, None, error))
            usable = [image for _, image, _ in ready if image is not None]
            rows = iter(self.encoder.encode_views(usable, views, mirror=self.settings.mirror))
            for source, pixels, failed in ready:
                yield source, pixels, failed if failed is not None else next(rows)

    def _decoded(self, source: str, image: Given, views: int) -> Image:
        if isinstance(image, np.ndarray):
            return image
        side = short_side(self.bundle.manifest.preprocess, views, mirror=self.settings.mirror)
        return decode(image, short_side=side, name="" if isinstance(image, Path) else source)

    def _thumbnail(self, image: Image | None) -> bytes | None:
        if image is None or self.settings.thumbnails == 0:
            return None
        return thumbnail(image, self.settings.thumbnails)

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

    def merge(self, name: str, into: str, *, force: bool = False) -> Entry:
        """Raises Refused where it makes the answers worse (setting `guard`) and not `force`."""
        store = self._changing()
        return self._guarded(
            lambda: store.merge(name, into, actor=self.settings.actor), force=force
        )

    def remove(self, name: str) -> Entry:
        return self._changing().remove(name, actor=self.settings.actor)

    def disable(self, name: str) -> Entry:
        """Leaves a class out of what is answered here; see `Store.disable`."""
        return self._changing().disable(name, actor=self.settings.actor)

    def enable(self, name: str) -> Entry:
        return self._changing().enable(name, actor=self.settings.actor)

    def purge(self, name: str) -> Purged:
        purged = self._changing().purge(name, actor=self.settings.actor)
        self._learned = None
        forget(self.settings.state)
        return purged

    def relabel(self, shots: Sequence[str], name: str, *, force: bool = False) -> Entry:
        """Raises Refused where it makes the answers worse (setting `guard`) and not `force`."""
        store = self._changing()
        return self._guarded(
            lambda: store.relabel(shots, name, actor=self.settings.actor), force=force
        )

    def _guarded(self, change: Callable[[], Entry], *, force: bool) -> Entry:
        """Makes a change, unless left-out accuracy falls by more than the setting `guard`."""
        store = self.store()
        if force or self.settings.guard >= 1:
            return change()
        before = self.learned()
        with store.atomic():  # what is refused is rolled back
            entry = change()
            after = self._read(store, before)
            verdict = compare(measured(before), measured(after), self.settings.guard)
            if not verdict.passed:
                raise Refused(
                    f"held back, nothing was changed: {verdict.reason} ({entry.summary})",
                    hint="see `accrue class quality`; to do it all the same, add --force",
                )
        return entry

    def split(self, name: str, shots: Sequence[str], new: str) -> Entry:
        return self._changing().split(name, shots, new, actor=self.settings.actor)

    def suggest_split(self, name: str) -> SplitSuggestion:
        """Two groups of a class's kept shots. Raises Conflict where there are too few shots."""
        store = self._taught()
        row = store.resolve(name)
        learned = self.learned()
        mine = [i for i, owner in enumerate(learned.classes_of_shots) if owner == row.id]
        groups = two_groups([learned.shots[i][1] for i in mine], learned.state, row.id)
        if groups is None:
            raise Conflict(
                f"class {shown(row.name)} has {len(mine)} kept shots; two groups of two or more "
                f"are looked for among {LEAST_SHOTS} or more",
                hint="teach more shots, or split by hand: `accrue class split NAME NEW SHOT...`",
                found=len(mine),
                expected=LEAST_SHOTS,
            )
        shots = [store.shot(learned.shot_ids[i]) for i in mine]
        first, second = (
            tuple(s for s, is_second in zip(shots, groups.second, strict=True) if is_second == side)
            for side in (False, True)
        )
        return SplitSuggestion(row.name, first, second, groups.separation, groups.advisable)

    def not_this(self, name: str, images: Iterable[tuple[str, Given]]) -> Entry:
        """Notes images as not of a class; raises the error of an image that cannot be used."""
        self.require_same_space()
        self._taught().resolve(name)
        rows = []
        for source, _, row in self._asked(images):
            if isinstance(row, AccrueError):
                raise row
            rows.append((source, quantise(row[None])))
        return self._changing().refuse(name, rows, actor=self.settings.actor)

    def allow(self, refusals: Sequence[str]) -> Entry:
        """Takes images of `not_this` back, by their ids."""
        return self._changing().allow(refusals, actor=self.settings.actor)

    def refusals(self, name: str) -> list[Refusal]:
        return self._taught().refusals(name)

    def suspects(self, name: str | None = None) -> list[SuspectShot]:
        """Kept shots, those first that the others speak against most; of one class or of all."""
        store = self._taught()
        only = None if name is None else store.resolve(name).id
        learned = self.learned().answering
        found = suspects(learned.left_out, learned.classes_of_shots)
        shots = {shot.id: shot for shot in store.shots(name)}
        return [
            SuspectShot(
                shots[learned.shot_ids[s.shot]],
                learned.names[s.class_id],
                learned.names[s.rival_id],
                s.margin,
            )
            for s in found
            if only in (None, s.class_id)
        ]

    def quality(self) -> list[Report]:
        """How well each class that is answered is taught, in the order of `classes`."""
        self._taught()
        learned = self.learned().answering
        found = {
            q.class_id: q
            for q in quality(learned.left_out, learned.classes_of_shots, learned.state)
        }
        return [report(found[c], learned.names) for c in learned.names if c in found]

    # ---- what nobody named ----------------------------------------------------------------------

    @contextmanager
    def unknown_queue(self) -> Iterator[Queue]:
        """The ring of moments that were not recognised; made where it is not there."""
        manifest = self.bundle.manifest
        queue = Queue(
            self.settings.state, manifest.space_id, manifest.dim, most=self.settings.unknown
        )
        try:
            yield queue
        finally:
            queue.close()

    def unknown(self) -> list[UnknownGroup]:
        """What was not recognised, in groups; first what helps most to be named.

        That is the biggest group; of groups of one size, that whose nearest class has the fewest
        shots, then that with the smallest margin.
        """
        if not present(self.settings.state):
            return []
        store = self.reading()
        learned = self.learned().answering
        with self.unknown_queue() as queue:
            waiting = [
                (moment, rows)
                for moment, rows in queue.moments()
                if not (moment.shot and store is not None and store.holds(moment.shot))
            ]
        numbers = clusters([rows for _, rows in waiting], learned.state)
        groups: dict[int, list[Moment]] = {}
        for (moment, _), number in zip(waiting, numbers, strict=True):
            groups.setdefault(number, []).append(moment)
        shots = Counter(learned.classes_of_shots)

        def helps(moments: list[Moment]) -> tuple[float, ...]:
            nearest = _most_common(moments)
            margins = [m.margin for m in moments if m.margin is not None]
            return -len(moments), shots[nearest], min(margins, default=math.inf), moments[0].id

        return [
            UnknownGroup(tuple(moments), learned.names.get(_most_common(moments), ""))
            for moments in sorted(groups.values(), key=helps)
        ]

    def name_unknown(self, moments: Sequence[int], name: str) -> list[Receipt]:
        """Teaches moments of the queue as shots of a class, from what was embedded then.

        Raises:
            NotFound: no such moment; then nothing is taught.
        """
        name = clean_name(name)
        self.require_same_space()
        receipts = []
        with self.unknown_queue() as queue:
            there = {moment.id: (moment, rows) for moment, rows in queue.moments()}
            for one in moments:
                if one not in there:
                    queue.thumb(one)  # raises: it is gone, or of another encoder
                    raise NotFound(
                        f"moment {one} is of another encoder", hint="see `accrue unknown list`"
                    )
            store = self.store(create=True)
            teaching = store.begin_teach(name, actor=self.settings.actor)
            for moment, rows in (there[one] for one in dict.fromkeys(moments)):
                thumb = queue.thumb(moment.id) if self.settings.thumbnails else None
                shot = store.add_shot(teaching, rows, source=moment.camera, thumb=thumb)
                queue.named(moment.id, shot)
                receipts.append(Receipt(shot, moment.camera, teaching.class_name, len(rows)))
        return receipts

    def ignore_unknown(self, moments: Sequence[int]) -> None:
        """Deletes moments of the queue. Raises NotFound; then none is deleted."""
        with self.unknown_queue() as queue:
            queue.ignore(moments)

    # ---- how rows are kept ----------------------------------------------------------------------

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

    def backup_into(self, folder: Path, *, keep: int, thumbnails: bool = True) -> Rotated:
        """One more backup in a folder, and the oldest beyond `keep` removed."""
        return backup_into(self._taught(), folder, keep=keep, thumbnails=thumbnails)

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


def summed(evidence: Sequence[ClassRows], before: Learned | None, empty: State) -> State:
    """The sums of all evidence: those of before, and what came or went since. Exact either way."""
    if before is None or (before.state.space, before.state.dim) != (empty.space, empty.dim):
        state, held = empty, {}
    else:
        state = before.state.copy()  # others may be reading that one
        held = {one.id: one for one in before.evidence}
    for one in evidence:
        old = held.pop(one.id, None)
        if old is not None and old.shot_ids == one.shot_ids and old.folded is one.folded is None:
            continue
        if old is not None and one.id in state:
            state.remove(one.id)
        state.add(one.id, one.rows)
        if one.folded is not None:
            state.add_statistics(one.id, one.folded)
    for gone in held:
        if gone in state:
            state.remove(gone)
    _ = state.total  # worked out here, because threads that read it must not
    return state


def _most_common(moments: Sequence[Moment]) -> str:
    return Counter(moment.class_id for moment in moments).most_common(1)[0][0]


def _give_voice(store: Store) -> None:
    """What is taught here is said to the fleet when a process that syncs comes by."""
    try:
        from accrue.sync.shelf import StoreLedger
    except ModuleNotFoundError as error:
        raise AccrueError(
            f"{store.path} belongs to a fleet, and the package {error.name} is missing",
            hint="install it: pip install 'accrue[sync]'",
            found=error.name,
        ) from error
    StoreLedger(store)


def _batches(images: Iterable[tuple[str, Given]]) -> Iterator[list[tuple[str, Any]]]:
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
