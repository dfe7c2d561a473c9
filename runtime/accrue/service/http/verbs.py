"""The handlers: every verb of the box under its own name, and nothing of their own."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from accrue.errors import NotFound, UsageError
from accrue.service.access import OPERATOR, OWNER, VIEWER
from accrue.service.box import Explanation
from accrue.service.doctor import examine
from accrue.service.http.shapes import (
    Answers,
    BackupHow,
    Building,
    Cameras,
    CandidateView,
    Checks,
    ClassDetail,
    Classes,
    ClassView,
    DeviceView,
    EncoderView,
    EngineView,
    Entries,
    Fleet,
    GroupView,
    Limit,
    Me,
    MomentView,
    NearView,
    Predictions,
    Qualities,
    ReasonView,
    Shots,
    Split,
    Suspects,
    SuspectsOf,
    SuspectView,
    UnknownView,
    Why,
    class_view,
    name_of,
    prediction_view,
    quality_view,
)
from accrue.service.http.table import Call, File, Images, Table
from accrue.service.jobs import Job
from accrue.service.support import support_file

table = Table()
MOST_LIMIT = 1000
SUPPORT_MEDIA = "application/zip"
BACKUP_MEDIA = "application/vnd.accrue.backup"


# ---- the device ---------------------------------------------------------------------------------


@table.add("GET", "/device", VIEWER)
def device(call: Call) -> DeviceView:
    """The device in brief, and who asks."""
    about = call.device.status()
    with call.device.reading() as box:
        rows = box.classes()
        store = box.reading()
        held = store.held().total if store is not None else 0
    assert call.grant is not None
    return DeviceView(
        version=about["version"],
        name=socket.gethostname(),
        started=about["started"],
        ready=about["ready"],
        reason=about["reason"],
        encoder=EncoderView(**about["encoder"]),
        cameras=about["cameras"],
        classes=len(rows),
        shots=sum(row.shots for row in rows),
        held=held,
        budget=call.device.settings.memory,
        last_event=about["last_event"],
        me=Me(call.grant.id, call.grant.name, call.grant.role),
    )


@table.add("GET", "/cameras", VIEWER)
def cameras(call: Call) -> Cameras:
    """The cameras: how each is doing, and what it shows."""
    return Cameras(call.device.cameras())


@table.add("GET", "/doctor", OPERATOR)
def doctor(call: Call) -> Checks:
    """Check this device: packages, encoder, licence, state folder."""
    return Checks(list(examine(call.device.settings)))


@table.add("GET", "/engine", VIEWER)
def engine(call: Call) -> EngineView:
    """Which realisation of the encoder serves, and why no better one."""
    from accrue.vision.engines import CANDIDATES, EngineFolder

    serving = call.device.box.serving
    dropped = {drop.candidate: drop for drop in serving.dropped}
    chain = []
    for name in CANDIDATES:
        drop = dropped.get(name)
        reason, hint = (drop.reason, drop.hint) if drop else ("", "")
        chain.append(CandidateView(name, name == serving.candidate, reason, hint))
    folder = EngineFolder(call.device.settings.engines_folder)
    kept = [one.stem for one in folder.engines()]
    now = folder.building()
    building = None if now is None else Building(now.what, now.done, now.total, now.began)
    return EngineView(serving.candidate, serving.engine, chain, kept, building)


@table.add("GET", "/jobs/{id}", VIEWER)
def job(call: Call, id: str) -> Job:
    """Work that takes long: how far it is, and what came of it."""
    return call.device.jobs.get(id)


@table.add("GET", "/fleet", VIEWER)
def fleet(call: Call) -> Fleet:
    """The fleet's side of this device."""
    return Fleet(call.device.fleet())


# ---- asking -------------------------------------------------------------------------------------


@table.add("POST", "/predict", VIEWER)
def predict(call: Call, images: Images) -> Predictions:
    """Say what each photo shows."""
    found = []
    for image in images:  # one at a time, so that others get to read in between
        with call.device.reading() as box:
            found += [prediction_view(one) for one in box.predict([image])]
    return Predictions(found)


@table.add("POST", "/why", VIEWER)
def why(call: Call, images: Images) -> Answers:
    """Say what each photo shows, and which kept shots speak for it and for the runner-up."""
    found = []
    for image in images:
        with call.device.reading() as box:
            found += [_why(one) for one in box.why([image])]
    return Answers(found)


def _why(found: Explanation) -> Why:
    reasons = [
        ReasonView(one.label, [NearView(near.shot, near.cosine) for near in one.shots])
        for one in found.reasons
    ]
    return Why(prediction_view(found.prediction), reasons, list(found.refused))


# ---- classes ------------------------------------------------------------------------------------


@table.add("GET", "/classes", VIEWER)
def classes(call: Call) -> Classes:
    """All classes, oldest first."""
    with call.device.reading() as box:
        learned = box.learned()
        views = [class_view(row, learned) for row in box.classes()]
        state = learned.state
        return Classes(views, state.digest(), state.space, state.dim)


@table.add("GET", "/classes/{id}", VIEWER)
def show(call: Call, id: str) -> ClassDetail:
    """One class, its shots, and what was noted as not of it; `ETag` is for `If-Match`."""
    with call.device.reading() as box:
        name = name_of(box, id)
        row, shots = box.show(name)
        view: ClassView = class_view(row, box.learned())
        call.answer.headers["etag"] = view.etag
        return ClassDetail(view, shots, box.refusals(name))


@table.add("GET", "/classes/{id}/shots", VIEWER)
def shots(call: Call, id: str) -> Shots:
    """The shots of a class, oldest first."""
    with call.device.reading() as box:
        return Shots(box.show(name_of(box, id))[1])


@table.add("GET", "/classes/{id}/split-suggestion", VIEWER)
def suggest_split(call: Call, id: str) -> Split:
    """Two groups of a class's shots, as a suggestion."""
    with call.device.reading() as box:
        found = box.suggest_split(name_of(box, id))
        return Split(
            found.label, list(found.first), list(found.second), found.separation, found.advisable
        )


@table.add("GET", "/shots/{id}/thumb.jpg", VIEWER, media="image/jpeg")
def thumb(call: Call, id: str) -> File:
    """The small picture of a shot."""
    with call.device.reading() as box:
        store = box.reading()
        found = None if store is None else store.thumb(id)
    if found is None:
        raise NotFound(
            f"no picture of shot {id[:40]!r} is kept",
            hint="setting `thumbnails` keeps one with each shot",
            found=id,
        )
    return File("image/jpeg", found, etag=f'"{id}"', seconds=3600)


@table.add("GET", "/quality", VIEWER)
def quality(call: Call) -> Qualities:
    """Whether each class is taught enough, and what it is mistaken for."""
    with call.device.reading() as box:
        if box.reading() is None:
            return Qualities([])
        return Qualities([quality_view(one) for one in box.quality()])


@table.add("GET", "/suspects", VIEWER)
def suspects(call: Call, query: SuspectsOf) -> Suspects:
    """Shots to look at: those first that look least like what they were taught as."""
    with call.device.reading() as box:
        if box.reading() is None:
            return Suspects([])
        name = None if query.class_name is None else name_of(box, query.class_name)
        found = box.suspects(name)[: _limit(query.limit)]
        return Suspects([SuspectView(s.shot, s.label, s.looks_like, s.margin) for s in found])


# ---- what nobody named --------------------------------------------------------------------------


@table.add("GET", "/unknown", VIEWER)
def unknown(call: Call) -> UnknownView:
    """What was not recognised, in groups that look alike; first what helps most."""
    with call.device.reading() as box:
        return UnknownView(
            [
                GroupView(
                    [
                        MomentView(m.id, m.at, m.last_at, m.seen, m.camera, m.verdict, m.margin)
                        for m in group.moments
                    ],
                    group.nearest,
                )
                for group in box.unknown()
            ]
        )


@table.add("GET", "/unknown/{id:int}/thumb.jpg", VIEWER, media="image/jpeg")
def unknown_thumb(call: Call, id: int) -> File:
    """The small picture of a moment."""
    with call.device.reading() as box, box.unknown_queue() as queue:
        found = queue.thumb(id)
    if found is None:
        raise NotFound(f"moment {id} has no picture", found=id)
    return File("image/jpeg", found, etag=f'"m{id}"', seconds=3600)


# ---- journal, backup ----------------------------------------------------------------------------


@table.add("GET", "/history", VIEWER)
def history(call: Call, query: Limit) -> Entries:
    """What was changed, by whom and when, newest first."""
    with call.device.reading() as box:
        return Entries(box.history(_limit(query.limit)))


@table.add("GET", "/support", OWNER, media=SUPPORT_MEDIA)
def support(call: Call) -> File:
    """A file for support: findings, facts, settings and logs, without secrets."""
    settings = call.device.settings
    content = support_file(settings, list(examine(settings)))
    return File(SUPPORT_MEDIA, content, name=f"{socket.gethostname()}-support.zip")


@table.add("GET", "/backup", OWNER, media=BACKUP_MEDIA)
def backup(call: Call, query: BackupHow) -> File:
    """Everything that was learned, and the journal, as one checksummed file."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = call.device.settings.state
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".backup-", delete=False) as made:
        path = Path(made.name)
    box = call.device.beside()
    try:
        box.backup(path, thumbnails=query.thumbnails)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        box.close()
    return File(BACKUP_MEDIA, path, name=f"{socket.gethostname()}-{stamp}.accrue")


def _limit(limit: int) -> int:
    if not 1 <= limit <= MOST_LIMIT:
        raise UsageError(f"limit is {limit}; expected 1 to {MOST_LIMIT}", found=limit)
    return limit
