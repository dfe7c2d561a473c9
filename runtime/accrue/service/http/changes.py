"""The handlers that change something; each writes its actor into the journal."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from anyio import open_file, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from accrue.errors import UsageError
from accrue.service.access import OPERATOR, OWNER, VIEWER
from accrue.service.box import Box
from accrue.service.events import UNKNOWN
from accrue.service.http.schema import plain, read_text
from accrue.service.http.shapes import (
    BeginTeach,
    Changed,
    ClassView,
    CommitTeach,
    Committed,
    IgnoreUnknown,
    Merge,
    Named,
    NameUnknown,
    NewClass,
    QualityView,
    Relabel,
    Removal,
    Removed,
    Rename,
    RestoredView,
    RestoreHow,
    Retention,
    SplitOff,
    Taught,
    Undo,
    check_match,
    class_view,
    label_of,
    name_of,
    quality_view,
    receipt_view,
)
from accrue.service.http.table import Call, File, Images, Table
from accrue.service.teaching import TeachView
from accrue.store import Entry

table = Table()
MOST_AT_ONCE = 1000  # shots or moments of one request


def _changed(call: Call, box: Box, entry: Entry, name: str | None = None) -> Changed:
    view: ClassView | None = None
    if name is not None:
        row, _ = box.show(name)
        view = class_view(row, box.learned())
        call.answer.headers["etag"] = view.etag
    return Changed(entry, view)


def _coached(call: Call, label: str) -> QualityView | None:
    """What the coach says of a class that was just taught."""
    with call.device.reading() as box:  # which works it out once, for those who look next, too
        return next((quality_view(one) for one in box.quality() if one.name == label), None)


def _newest(box: Box) -> Entry | None:
    entries = box.history(1)
    return entries[0] if entries else None


# ---- classes ------------------------------------------------------------------------------------


@table.add("POST", "/classes", OPERATOR, status=201, retry=True)
def teach_by_name(call: Call, body: NewClass) -> Changed:
    """Teach a class by its name alone, or by another text about it; again, it replaces that."""
    with call.device.writing(call.actor) as box:
        return _changed(call, box, box.teach_by_name(body.name, body.prompt), body.name)


@table.add("POST", "/classes/{name:path}/teach", OPERATOR, retry=True)
def teach(call: Call, name: str, images: Images) -> Taught:
    """Teach photos as shots of a class, by its name or id; a new name makes a new class.

    Near-duplicates and blurred photos are left out, and the receipts say so.
    """
    with call.device.writing(call.actor) as box:
        receipts = list(box.teach(label_of(box, name), images, actor=call.actor))
        errors = [one.error for one in receipts if one.error is not None]
        if len(errors) == len(receipts):
            raise errors[0]
        label = receipts[-1].class_name
        taught = [one.shot for one in receipts if one.shot]
        entry = _newest(box) if taught else None
    about = _coached(call, label) if taught else None
    return Taught(label, taught, [receipt_view(one) for one in receipts], about, entry)


@table.add("PATCH", "/classes/{id}", OPERATOR, match=True)
def rename(call: Call, id: str, body: Rename) -> Changed:
    """Rename a class; the old name stays as an alias."""
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.rename(name, body.name), body.name)


@table.add("POST", "/classes/{id}/disable", OPERATOR, match=True, retry=True)
def disable(call: Call, id: str) -> Changed:
    """Leave a class out of what this device answers; what it was taught stays."""
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.disable(name), name)


@table.add("POST", "/classes/{id}/enable", OPERATOR, match=True, retry=True)
def enable(call: Call, id: str) -> Changed:
    """Answer a disabled class again."""
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.enable(name), name)


@table.add("POST", "/classes/{id}/retention", OWNER, match=True, retry=True)
def retention(call: Call, id: str, body: Retention) -> Changed:
    """Set how a class keeps its rows. Rows that are folded by it cannot be had back."""
    if body.retain is None and body.budget is None:
        raise UsageError("nothing to set", hint="give `retain`, `budget` or both")
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.retention(name, body.retain, body.budget), name)


@table.add("DELETE", "/classes/{id}", OPERATOR, match=True)
def remove(call: Call, id: str, query: Removal) -> Removed:
    """Forget a class, exactly. With `purge` (owners alone) for good, from the disk too."""
    if query.purge:
        _require_owner(call)
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        if query.purge:
            return Removed(None, box.purge(name))
        return Removed(box.remove(name), None)


@table.add("POST", "/classes/{id}/merge", OPERATOR, match=True, retry=True)
def merge(call: Call, id: str, body: Merge) -> Changed:
    """Let one class count as another. Nothing is moved, so it can be undone."""
    with call.device.writing(call.actor) as box:
        name, into = name_of(box, id), name_of(box, body.into)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.merge(name, into, force=body.force), into)


@table.add("POST", "/classes/{id}/split", OPERATOR, match=True, retry=True)
def split(call: Call, id: str, body: SplitOff) -> Changed:
    """Make a new class of some shots of a class."""
    _check_many(body.shots)
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        check_match(box, name, call.if_match)
        return _changed(call, box, box.split(name, body.shots, body.new), body.new)


@table.add("POST", "/classes/{id}/not", OPERATOR, retry=True)
def not_this(call: Call, id: str, images: Images) -> Changed:
    """Note that photos are not of a class: what is nearest to them is not answered so again."""
    with call.device.writing(call.actor) as box:
        name = name_of(box, id)
        return _changed(call, box, box.not_this(name, images), name)


@table.add("DELETE", "/not/{id}", OPERATOR)
def allow(call: Call, id: str) -> Changed:
    """Take a photo of `not` back."""
    with call.device.writing(call.actor) as box:
        return _changed(call, box, box.allow([id]))


@table.add("POST", "/shots/relabel", OPERATOR, retry=True)
def relabel(call: Call, body: Relabel) -> Changed:
    """Let shots count for another class."""
    _check_many(body.shots)
    with call.device.writing(call.actor) as box:
        name = label_of(box, body.class_name)
        return _changed(call, box, box.relabel(body.shots, name, force=body.force), name)


# ---- teaching from a camera ---------------------------------------------------------------------


@table.add("POST", "/teach", OPERATOR, status=201, retry=True)
def begin_teach(call: Call, body: BeginTeach) -> TeachView:
    """Begin to record frames of a camera for a class, by its name or id."""
    with call.device.reading() as box:
        name = label_of(box, body.class_name)
    session = call.device.begin_teach(name, body.camera, call.actor)
    call.answer.headers["location"] = f"/api/v1/teach/{session.id}"
    return session.view()


@table.add("GET", "/teach/{id}", VIEWER)
def teach_session(call: Call, id: str) -> TeachView:
    """A session: its frames, what was dropped and why, and what the coach says."""
    return call.device.teach_session(id).view()


@table.add("GET", "/teach/{id}/frames/{n:int}.jpg", VIEWER, media="image/jpeg")
def teach_frame(call: Call, id: str, n: int) -> File:
    """The small picture of a frame, also of one that was dropped."""
    return File("image/jpeg", call.device.teach_session(id).thumb(n), seconds=600)


@table.add("POST", "/teach/{id}/stop", OPERATOR)
def stop_teach(call: Call, id: str) -> TeachView:
    """End the recording, for review. Again, it does nothing."""
    session = call.device.teach_session(id)
    session.stop()
    return session.view()


@table.add("POST", "/teach/{id}/commit", OPERATOR, retry=True)
def commit_teach(call: Call, id: str, body: CommitTeach) -> Committed:
    """Teach the frames that were kept, as one shot. What has a shot is on the disk."""
    with call.device.writing(call.actor) as box:
        receipt = call.device.commit_teach(id, call.actor, body.keep)
        entry = _newest(box) if receipt.shot else None
    about = _coached(call, receipt.class_name) if receipt.shot else None
    return Committed(**vars(receipt_view(receipt)), quality=about, entry=entry)


@table.add("DELETE", "/teach/{id}", OPERATOR)
def cancel_teach(call: Call, id: str) -> TeachView:
    """Drop a session. Nothing of it is kept."""
    session = call.device.teach_session(id)
    session.cancel()
    return session.view()


# ---- what nobody named --------------------------------------------------------------------------


@table.add("POST", "/unknown/name", OPERATOR, retry=True)
def name_unknown(call: Call, body: NameUnknown) -> Named:
    """Teach moments as shots of a class, by its name or id; a new name makes a new class."""
    _check_many(body.moments)
    with call.device.writing(call.actor) as box:
        receipts = box.name_unknown(body.moments, label_of(box, body.name))
        entry = _newest(box)
    call.device.events.publish(UNKNOWN, named=list(body.moments))
    return Named(receipts[0].class_name, [one.shot for one in receipts], entry)


@table.add("POST", "/unknown/ignore", OPERATOR)
def ignore_unknown(call: Call, body: IgnoreUnknown) -> None:
    """Delete moments for good."""
    _check_many(body.moments)
    with call.device.writing(call.actor) as box:
        box.ignore_unknown(body.moments)
    call.device.events.publish(UNKNOWN, ignored=list(body.moments))


# ---- journal, backup ----------------------------------------------------------------------------


@table.add("POST", "/undo", OPERATOR, retry=True)
def undo(call: Call, body: Undo) -> Changed:
    """Take a change back: the newest, or an entry of the journal. Undoing an undo is a redo."""
    with call.device.writing(call.actor) as box:
        return _changed(call, box, box.undo(body.entry))


@table.add(
    "POST",
    "/restore",
    OWNER,
    upload="application/octet-stream",
    query=RestoreHow,
    returns=RestoredView,
)
async def restore(request: Request) -> Response:
    """Put a backup in the place of what was learned; the present database is set aside.

    The body is the file. Where classes are there already, it needs `replace=true`.
    """
    device = request.app.state.device
    how = read_text(RestoreHow, request.query_params)
    actor = request.scope["state"]["grant"].name
    folder = device.settings.state
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".restore-", delete=False) as made:
        path = Path(made.name)
    try:
        async with await open_file(path, "wb") as file:
            async for part in _parts(request):
                await file.write(part)
        done = await to_thread.run_sync(lambda: device.restore(path, actor, replace=how.replace))
    finally:
        path.unlink(missing_ok=True)
    found = RestoredView(done.aside.name if done.aside else None, done.info)
    return JSONResponse(plain(found), headers={"cache-control": "no-store"})


async def _parts(request: Request) -> AsyncIterator[bytes]:
    async for part in request.stream():
        yield part


def _check_many(several: list[str] | list[int]) -> None:
    if not 1 <= len(several) <= MOST_AT_ONCE:
        raise UsageError(
            f"{len(several)} at once; expected 1 to {MOST_AT_ONCE}", found=len(several)
        )


def _require_owner(call: Call) -> None:
    from accrue.service.http.table import require

    require(OWNER, call.grant)
