"""The handlers of what takes long, each a job, and of the engines and settings of the device."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accrue.errors import AccrueError, Cancelled, ImageError, UsageError
from accrue.service.access import OPERATOR, OWNER
from accrue.service.daemon import Device
from accrue.service.http.schema import plain
from accrue.service.http.shapes import (
    BuildEngine,
    CleanedView,
    CleanEngines,
    ClipFrom,
    ConfigView,
    SettingView,
    VerifyEngine,
    label_of,
    quality_view,
)
from accrue.service.http.table import Call, Labelled, Table, source_of
from accrue.service.jobs import Job, Step
from accrue.service.settings import Settings
from accrue.store import clean_name
from accrue.vision.sources import IMAGE_SUFFIXES, without_password

table = Table()
BYTES = "application/octet-stream"  # what a video is, its first bytes say
CLIP_S = 120.0  # of a video that is sent; what is longer is no clip of one thing
CLIP, EVALUATE, BUILD, VERIFY = "teach clip", "evaluate", "engine build", "engine verify"
_HEAD_BYTES = 16


def _begin(call: Call, name: str, work: Callable[[Step], dict[str, Any]]) -> Job:
    job = call.device.jobs.start(name, work, actor=call.actor)
    call.answer.headers["location"] = f"/api/v1/jobs/{job.id}"
    return job


# ---- teaching from a video ----------------------------------------------------------------------


@table.add("POST", "/classes/{name:path}/clip", OPERATOR, status=202, retry=True, upload=BYTES)
def teach_clip(call: Call, name: str, query: ClipFrom, body: bytes) -> Job:
    """Begin to teach a video as one shot of a class, by its name or id; a new name makes a new one.

    The body is the file, of which the first two minutes are looked at. The job's result has the
    `class`, the `shot` (null where it repeats another one: `skipped`), `frames`, `kept`, `dropped`
    by reason, `hint`, `quality` and the `entry` of the journal.
    """
    with call.device.reading() as box:
        label = clean_name(label_of(box, name))
    source = source_of(query.source) if query.source else "video"
    suffix = _container(body, source)
    device, actor = call.device, call.actor
    folder = tempfile.TemporaryDirectory(dir=device.settings.state, prefix=".clip-")
    file = Path(folder.name, f"clip{suffix}")

    def work(step: Step) -> dict[str, Any]:
        with folder:
            return _taught(device, actor, label, file, source, step)

    try:
        file.write_bytes(body)
        return _begin(call, CLIP, work)
    except BaseException:
        folder.cleanup()
        raise


def _container(content: bytes, name: str) -> str:
    """The suffix to keep a video under. Raises ImageError where it is no file of moving pictures.

    OpenCV would follow what a playlist or a list of files names, so those never get there.
    """
    head = content[:_HEAD_BYTES]
    if head[4:8] == b"ftyp":
        return ".mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return ".mkv"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return ".avi"
    if head[:4] == b"\x00\x00\x01\xba":
        return ".mpg"
    raise ImageError(
        f"{name} is no video that is taken here",
        hint="send MP4, MOV, WebM, Matroska, AVI or MPEG; photos go to `teach`",
        found=head.hex(),
    )


def _taught(
    device: Device, actor: str, label: str, file: Path, source: str, step: Step
) -> dict[str, Any]:
    with device.reading() as box:
        burst = box.burst()

    def heard(_: object) -> None:
        if device.jobs.cancelled:
            raise Cancelled("the device stops; nothing of the video was taught")
        step("looking", len(burst.notes), 0)

    try:
        burst.clip(file, seconds=CLIP_S, heard=heard)
    except AccrueError as error:
        if isinstance(error, Cancelled) or not burst.kept:
            raise _as_sent(error, file, source) from None
        burst.stop()  # a file that was cut short: what was seen before that is taught
    with device.writing(actor) as box:
        receipt = box.teach_burst(label, burst, source=source)
        entry = box.history(1)[0] if receipt.shot else None
    about = None
    if receipt.shot:
        with device.reading() as box:
            about = next((q for q in box.quality() if q.name == receipt.class_name), None)
    return {
        "class": receipt.class_name,
        "shot": receipt.shot or None,
        "frames": len(burst.notes),
        "kept": burst.kept,
        "dropped": burst.dropped,
        "hint": "" if burst.enough else burst.hint,
        "skipped": receipt.skipped and asdict(receipt.skipped),
        "quality": about and plain(quality_view(about)),
        "entry": entry and asdict(entry),
    }


def _as_sent(error: AccrueError, path: Path, name: str) -> AccrueError:
    """The same error with the name that the sender knows."""
    return type(error)(error.message.replace(str(path), name), hint=error.hint)


# ---- how good it is -----------------------------------------------------------------------------


@table.add("POST", "/evaluate", OPERATOR, status=202)
def evaluate(call: Call, photos: Labelled) -> Job:
    """Begin to measure how many of these photos are answered right; nothing is taught by it.

    Parts called `image` of a form, each with the name `CLASS/photo.jpg`: the last folder says what
    it shows. The job's result is that of `accrue evaluate --json`.
    """
    device = call.device
    folder = tempfile.TemporaryDirectory(dir=device.settings.state, prefix=".evaluate-")
    try:
        names = _sorted_into(Path(folder.name), photos)
    except BaseException:
        folder.cleanup()
        raise

    def work(step: Step) -> dict[str, Any]:
        from accrue.service.evaluation import evaluate as run

        def progress(what: str, done: int, total: int) -> None:
            if device.jobs.cancelled:
                raise Cancelled("the device stops; nothing was measured")
            step(what, done, total)

        with folder:
            box = device.beside()
            try:
                found = run(box, Path(folder.name), progress=progress)
            except AccrueError as error:
                raise _as_sent(error, Path(folder.name), "these photos") from None
            finally:
                box.close()
            for one in found.refused:
                path, name = one["path"], names[one["path"]]
                told = {
                    key: value.replace(path, name) if isinstance(value, str) else value
                    for key, value in one["error"].items()
                }
                one |= {"path": name, "error": told}
            return dict(plain(found))

    try:
        return _begin(call, EVALUATE, work)
    except BaseException:
        folder.cleanup()
        raise


def _sorted_into(folder: Path, photos: Labelled) -> dict[str, str]:
    """Writes the photos as CLASS/NUMBER.jpg; path to the name as it was sent."""
    names: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for number, (label, name, content) in enumerate(photos):
        label = unicodedata.normalize("NFC", label).strip()
        if not label or label.startswith("."):
            raise UsageError(
                f"the photo {name} is of no class",
                hint="call it CLASS/photo.jpg: curl -F 'image=@photo.jpg;filename=bolt/photo.jpg'",
                found=name,
            )
        place = folders.get(clean_name(label)) or folder / clean_name(label)
        folders[clean_name(label)] = place
        with suppress(FileExistsError):
            place.mkdir()
        suffix = Path(name).suffix.lower()
        path = place / f"{number:05}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"
        path.write_bytes(content)
        names[str(path)] = f"{label}/{name}"
    return names


# ---- engines ------------------------------------------------------------------------------------


@table.add("POST", "/engine/build", OWNER, status=202)
def build_engine(call: Call, body: BuildEngine) -> Job:
    """Begin to build an engine of the encoder on this device; it serves once it is checked."""
    from accrue.service.engines import Engines

    device = call.device

    def work(step: Step) -> dict[str, Any]:
        built = Engines(device.settings).build(
            flavour=body.flavour,
            precision=body.precision,
            step=step,
            cancelled=lambda: device.jobs.cancelled,
        )
        return {"engine": built.engine.stem, "unchecked": built.unchecked}

    return _begin(call, BUILD, work)


@table.add("POST", "/engine/verify", OWNER, status=202)
def verify_engine(call: Call, body: VerifyEngine) -> Job:
    """Begin to load an engine and check it against the golden images; it serves if it passes.

    The job's result has the name of the `engine` and its `parity`.
    """
    from accrue.service.engines import Engines

    settings = call.device.settings

    def work(step: Step) -> dict[str, Any]:
        checked = Engines(settings).verify(body.engine)
        parity = None if checked.parity is None else asdict(checked.parity)
        return {"engine": checked.stem, "parity": plain(parity)}

    return _begin(call, VERIFY, work)


@table.add("POST", "/engine/clean", OWNER)
def clean_engines(call: Call, body: CleanEngines) -> CleanedView:
    """Remove engines that neither serve nor served before, and what a killed build left."""
    from accrue.service.engines import Engines

    removed = Engines(call.device.settings).clean(everything=body.everything)
    return CleanedView([path.name for path in removed])


# ---- settings -----------------------------------------------------------------------------------


@table.add("GET", "/config", OWNER)
def config(call: Call) -> ConfigView:
    """Every setting in force, and where it comes from; passwords and secret addresses left out."""
    settings, origins = call.device.settings, call.device.origins
    return ConfigView(
        [
            SettingView(key.name, _told(settings, key.name), origins.get(key.name, ""), _about(key))
            for key in fields(Settings)
        ]
    )


def _about(key: Any) -> str:
    return str(key.metadata["meaning"])


def _told(settings: Settings, name: str) -> str | int | float | bool | list[str] | None:
    value = getattr(settings, name)
    if name == "webhook" and value:
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.hostname or ''}/…"  # the rest may be a secret
    if isinstance(value, tuple):
        return [without_password(one) for one in value]
    return value if isinstance(value, str | int | float | None) else str(value)
