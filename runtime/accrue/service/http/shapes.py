"""What goes in and out, as dataclasses: they are checked, written as JSON, and documented."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from accrue.service.access import Grant
from accrue.service.box import Box, Learned, Prediction, Receipt
from accrue.service.checks import Check
from accrue.service.coach import Report, Skipped
from accrue.service.daemon import CameraView
from accrue.service.http.problems import Stale, document
from accrue.service.http.schema import plain
from accrue.store import BackupInfo, ClassRow, Entry, Purged, Refusal, Shot

# ---- out ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderView:
    """The encoder in use. `serves`: its realisation, as in `accrue engine status`."""

    name: str
    dim: int
    space_id: str
    licence: str
    restricted: bool
    serves: str


@dataclass(frozen=True)
class Me:
    """Who asks."""

    id: str
    name: str
    role: str


@dataclass(frozen=True)
class DeviceView:
    """The device in brief.

    Attributes:
        version: of Accrue. name: of the machine. started: unix seconds.
        ready: whether it answers. reason: why not; else "".
        cameras: how many. classes, shots: what it knows. last_event: id of the newest event.
        held: bytes of what was taught. budget: bytes that it may take; 0: no limit.
    """

    version: str
    name: str
    started: float
    ready: bool
    reason: str
    encoder: EncoderView
    cameras: int
    classes: int
    shots: int
    held: int
    budget: int
    last_event: int
    me: Me


@dataclass(frozen=True)
class Cameras:
    cameras: list[CameraView]


@dataclass(frozen=True)
class ClassView:
    """A class.

    Attributes:
        id: stays when it is renamed. name: display name.
        shots: it has. rows: it learned from, folded ones too. kept_rows: of them still kept.
        digest: SHA-256 of what was learned of it; null where it was taught by name alone.
        aliases: further names. merged: names of the classes that count as this one.
        created_at: unix seconds. retain, budget: how its rows are kept.
        by_name: the text that it was taught by, or null.
        disabled: whether this device leaves it out of what it answers.
        etag: for `If-Match`: changes whenever one of the others does.
    """

    id: str
    name: str
    shots: int
    rows: int
    kept_rows: int
    digest: str | None
    aliases: list[str]
    merged: list[str]
    created_at: float
    retain: str
    budget: int
    by_name: str | None
    disabled: bool
    etag: str


@dataclass(frozen=True)
class Classes:
    """All classes. `digest`: SHA-256 of the whole state."""

    classes: list[ClassView]
    digest: str
    space_id: str
    dim: int


@dataclass(frozen=True)
class ClassDetail:
    """A class with its shots, oldest first, and what was noted as not of it."""

    about: ClassView
    shots: list[Shot]
    not_this: list[Refusal]


@dataclass(frozen=True)
class Shots:
    shots: list[Shot]


@dataclass(frozen=True)
class Changed:
    """A change was made: its entry in the journal, and the class as it is now, if it is one's."""

    entry: Entry
    about: ClassView | None


@dataclass(frozen=True)
class Removed:
    """A class is gone: the entry in the journal, or what was deleted for good."""

    entry: Entry | None
    purged: Purged | None


@dataclass(frozen=True)
class Entries:
    """Of the journal, newest first."""

    entries: list[Entry]


@dataclass(frozen=True)
class ConfusableView:
    """Another class, and the share of this one's left-out shots that it wins."""

    label: str
    share: float


@dataclass(frozen=True)
class QualityView:
    """How well a class is taught; what the words mean stands in docs/coach.md.

    Attributes:
        verdict: `enough`, `needs_shots`, `confusable` or `not_tested` (no row is kept).
        accuracy: share of its shots that are answered right when left out; null if none could be.
        margin: of the middle one of them, or null. confusable: what it is mistaken for.
        balance: its rows to the usual number of rows. imbalanced: whether that is far off.
    """

    name: str
    verdict: str
    shots: int
    accuracy: float | None
    margin: float | None
    confusable: list[ConfusableView]
    balance: float | None
    imbalanced: bool


@dataclass(frozen=True)
class Qualities:
    classes: list[QualityView]


@dataclass(frozen=True)
class Checks:
    checks: list[Check]


@dataclass(frozen=True)
class Alternative:
    label: str
    p: float | None


@dataclass(frozen=True)
class PredictionView:
    """The answer for one image; fields as of `accrue predict --json`.

    Attributes:
        source: name of the file. label: null where there is none.
        verdict: `sure`, `maybe`, `unknown` or `not_ready`; null with an error.
        error: why there is no answer.
    """

    source: str
    label: str | None
    verdict: str | None
    score: float | None
    margin: float | None
    alternatives: list[Alternative]
    error: dict[str, Any] | None


@dataclass(frozen=True)
class Predictions:
    predictions: list[PredictionView]


@dataclass(frozen=True)
class NearView:
    """A kept shot near to the photo. `cosine`: 1 is the same."""

    shot: Shot
    cosine: float


@dataclass(frozen=True)
class ReasonView:
    """A class that was in question, and its shots nearest to the photo."""

    label: str
    shots: list[NearView]


@dataclass(frozen=True)
class Why:
    """An answer and its why. `refused`: classes that the photo was noted not to be of."""

    prediction: PredictionView
    reasons: list[ReasonView]
    refused: list[str]


@dataclass(frozen=True)
class Answers:
    answers: list[Why]


@dataclass(frozen=True)
class ReceiptView:
    """What became of one photo: `shot` is "" where it was not taught, `error` or `skipped` why."""

    shot: str
    source: str
    class_name: str
    rows: int
    error: dict[str, Any] | None
    skipped: Skipped | None


@dataclass(frozen=True)
class Taught:
    """A receipt for each photo. What has a shot is on the disk.

    Attributes:
        class_name: display name of the class. shots: ids of the new shots.
        quality: what the coach says of the class now, or null.
        entry: of the journal, to be undone; null where nothing was taught.
    """

    class_name: str
    shots: list[str]
    receipts: list[ReceiptView]
    quality: QualityView | None
    entry: Entry | None


@dataclass(frozen=True)
class Committed(ReceiptView):
    """What became of a burst: a receipt, with `quality` and `entry` as of `Taught`."""

    quality: QualityView | None
    entry: Entry | None


@dataclass(frozen=True)
class SuspectView:
    """A shot to look at. Below a margin of 0 the other class wins."""

    shot: Shot
    label: str
    looks_like: str
    margin: float | None


@dataclass(frozen=True)
class Suspects:
    suspects: list[SuspectView]


@dataclass(frozen=True)
class Split:
    """Two groups of a class's shots. `advisable`: whether they look like two things."""

    label: str
    first: list[Shot]
    second: list[Shot]
    separation: float | None
    advisable: bool


@dataclass(frozen=True)
class GroupView:
    """Moments that look alike. `nearest`: the class that most are nearest to; "" if none."""

    moments: list[MomentView]
    nearest: str


@dataclass(frozen=True)
class MomentView:
    """Something that was not recognised.

    Attributes:
        at, last_at: unix seconds of its first and last frame. seen: how often.
        camera: name. verdict: `unknown` or `maybe`. margin: null where there was no second class.
    """

    id: int
    at: float
    last_at: float
    seen: int
    camera: str
    verdict: str
    margin: float | None


@dataclass(frozen=True)
class UnknownView:
    """First the group that helps most to be named."""

    groups: list[GroupView]


@dataclass(frozen=True)
class Named:
    """Moments became shots. `entry`: of the journal, to be undone."""

    class_name: str
    shots: list[str]
    entry: Entry | None


@dataclass(frozen=True)
class RestoredView:
    """What a restore did. `aside`: file name of the former database, or null."""

    aside: str | None
    info: BackupInfo


@dataclass(frozen=True)
class CandidateView:
    """A realisation of the encoder, and why it does not serve."""

    candidate: str
    serves: bool
    reason: str
    hint: str


@dataclass(frozen=True)
class Building:
    """How far the build of an engine is, in the builder's words; `total` 0 where that is not known.

    Attributes:
        began: unix seconds.
    """

    what: str
    done: int
    total: int
    began: float


@dataclass(frozen=True)
class EngineView:
    """Which realisation of the encoder serves, and why no better one.

    Attributes:
        engine: name of the engine that serves; "" where none does.
        engines: names of those that were built here.
        building: the one that is being built, by this process or another; null where none is.
    """

    serves: str
    engine: str
    chain: list[CandidateView]
    engines: list[str]
    building: Building | None


@dataclass(frozen=True)
class CleanedView:
    """`removed`: names of files."""

    removed: list[str]


@dataclass(frozen=True)
class SettingView:
    """A setting.

    Attributes:
        name: its key. value: in force now. meaning: in a line.
        origin: `default`, `file PATH`, `environment NAME` or `flag --name`; "" where not known.
    """

    name: str
    value: str | int | float | bool | list[str] | None
    origin: str
    meaning: str


@dataclass(frozen=True)
class ConfigView:
    settings: list[SettingView]


@dataclass(frozen=True)
class Fleet:
    """The fleet's side of this device; null where it belongs to none."""

    fleet: dict[str, Any] | None


@dataclass(frozen=True)
class AccessView:
    """Who may come in. `me`: id of the one who asks."""

    access: list[Grant]
    me: str


@dataclass(frozen=True)
class Admitted:
    """Access was given. `token` is told here once, and never again."""

    access: Grant
    token: str


@dataclass(frozen=True)
class Pairing:
    """A code for one use. `qr`: the address with the code, as SVG. `expires`: unix seconds."""

    code: str
    role: str
    url: str
    qr: str
    expires: float


# ---- in -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewClass:
    """`prompt`: a text to go by instead of the name."""

    name: str
    prompt: str | None = None


@dataclass(frozen=True)
class Rename:
    name: str


@dataclass(frozen=True)
class Merge:
    """`into`: name or id of a class. `force`: even if answers get worse."""

    into: str
    force: bool = False


@dataclass(frozen=True)
class SplitOff:
    """`shots`: ids of those that go into the class `new`."""

    shots: list[str]
    new: str


@dataclass(frozen=True)
class Retention:
    """What is left out stays. Rows that this folds into statistics cannot be had back.

    Attributes:
        retain: `rows`, or `statistics`: fold every shot at once. budget: rows kept at most.
    """

    retain: Literal["rows", "statistics"] | None = None
    budget: int | None = None


@dataclass(frozen=True)
class Relabel:
    """`class_name`: name or id. `force`: even if answers get worse."""

    shots: list[str]
    class_name: str
    force: bool = False


@dataclass(frozen=True)
class BeginTeach:
    class_name: str
    camera: int = 0


@dataclass(frozen=True)
class CommitTeach:
    """`keep`: numbers of the frames to be taught; null: those that the session keeps."""

    keep: list[int] | None = None


@dataclass(frozen=True)
class NameUnknown:
    moments: list[int]
    name: str


@dataclass(frozen=True)
class IgnoreUnknown:
    moments: list[int]


@dataclass(frozen=True)
class Undo:
    """`entry`: of the journal; null: the newest change."""

    entry: int | None = None


@dataclass(frozen=True)
class Pair:
    """`name`: as it is written into the journal."""

    code: str
    name: str


@dataclass(frozen=True)
class Admit:
    name: str
    role: Literal["viewer", "operator", "owner"]


@dataclass(frozen=True)
class Invite:
    role: Literal["viewer", "operator", "owner"] = "operator"


@dataclass(frozen=True)
class BuildEngine:
    """As of `accrue engine build`; null: what fits best."""

    flavour: Literal["tensorrt", "tensorrt-rtx"] | None = None
    precision: Literal["fp16", "fp32"] | None = None


@dataclass(frozen=True)
class VerifyEngine:
    """`engine`: its name; null: the newest that fits."""

    engine: str | None = None


@dataclass(frozen=True)
class CleanEngines:
    """`everything`: those that serve, too."""

    everything: bool = False


# ---- queries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """`limit`: entries at most."""

    limit: int = 50


@dataclass(frozen=True)
class SuspectsOf:
    """`class_name`: name or id; else all classes."""

    class_name: str | None = None
    limit: int = 20


@dataclass(frozen=True)
class ClipFrom:
    """`source`: name of the file, to be written beside the shot."""

    source: str = ""


@dataclass(frozen=True)
class Removal:
    """`purge`: delete it for good, from the disk too."""

    purge: bool = False


@dataclass(frozen=True)
class BackupHow:
    thumbnails: bool = True


@dataclass(frozen=True)
class RestoreHow:
    """`replace`: put it in the place of the classes that are there."""

    replace: bool = False


# ---- making them --------------------------------------------------------------------------------


def class_view(row: ClassRow, learned: Learned) -> ClassView:
    view = ClassView(
        id=row.id,
        name=row.name,
        shots=row.shots,
        rows=learned.state.count(row.id),
        kept_rows=row.rows,
        digest=learned.state.class_digest(row.id) if row.id in learned.state else None,
        aliases=list(row.aliases),
        merged=list(row.merged),
        created_at=row.created_at,
        retain=row.retain,
        budget=row.budget,
        by_name=row.prompt,
        disabled=row.disabled,
        etag="",
    )
    text = json.dumps(plain(view), sort_keys=True).encode()
    return ClassView(**{**vars(view), "etag": f'"{hashlib.sha256(text).hexdigest()[:16]}"'})


def name_of(box: Box, key: str) -> str:
    """The name of a class that is given by id or by name. Raises NotFound."""
    for row in box.classes():
        if row.id == key:
            return row.name
    return box.show(key)[0].name


def label_of(box: Box, key: str) -> str:
    """The name of the class that has this id; else the key itself, which may be a new name."""
    return next((row.name for row in box.classes() if row.id == key), key)


def check_match(box: Box, name: str, if_match: str) -> None:
    """Raises Stale where somebody else has changed the class meanwhile."""
    if not if_match or if_match == "*":
        return
    row, _ = box.show(name)
    etag = class_view(row, box.learned()).etag
    if etag not in [one.strip().removeprefix("W/") for one in if_match.split(",")]:
        raise Stale(
            f"class {row.name!r} was changed meanwhile",
            hint="look at it again, then decide",
            found=etag,
            expected=if_match[:80],
        )


def prediction_view(found: Prediction) -> PredictionView:
    failed = found.error is not None
    return PredictionView(
        source=found.source,
        label=found.label or None,
        verdict=None if failed else found.verdict,
        score=found.score,
        margin=found.margin,
        alternatives=[Alternative(other.label, other.p) for other in found.alternatives],
        error=None if found.error is None else document(found.error),
    )


def quality_view(found: Report) -> QualityView:
    return QualityView(
        name=found.name,
        verdict=found.verdict,
        shots=found.shots,
        accuracy=found.accuracy,
        margin=found.margin,
        confusable=[ConfusableView(other.label, other.share) for other in found.confusable],
        balance=found.balance,
        imbalanced=found.imbalanced,
    )


def receipt_view(found: Receipt) -> ReceiptView:
    error = None if found.error is None else document(found.error)
    return ReceiptView(found.shot, found.source, found.class_name, found.rows, error, found.skipped)
