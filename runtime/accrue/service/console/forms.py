"""The console's forms: they work without JavaScript and call the same verbs of the same box.

With JavaScript the same form is sent in the background, with a key, so that it can wait for the
network and be sent twice without being done twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from accrue.errors import AccrueError, UsageError
from accrue.service.access import OPERATOR, OWNER, Access, Grant
from accrue.service.console.look import COOKIE
from accrue.service.console.page import KEPT, Pages, Said, call_of
from accrue.service.console.summaries import said as said_of
from accrue.service.console.words import Words
from accrue.service.http import people, work
from accrue.service.http.guard import COOKIE_SECONDS, grant_of, sign_in
from accrue.service.http.problems import document, status_of, unexpected
from accrue.service.http.shapes import (
    BuildEngine,
    CleanEngines,
    ClipFrom,
    Pair,
    VerifyEngine,
    check_match,
    name_of,
)
from accrue.service.http.table import Call, folder_of, require, source_of
from accrue.service.jobs import Job
from accrue.store import Entry, clean_name
from accrue.store.store import Retain

if TYPE_CHECKING:
    from accrue.service.box import Box
    from accrue.service.daemon import Device

MOST_FIELDS = 1000
MOST_PHOTOS = 200


@dataclass(frozen=True)
class Filled:
    """A form that was sent: by whom, to what, in which language."""

    device: Device
    access: Access
    grant: Grant | None
    data: FormData
    path: dict[str, Any]
    words: Words
    call: Call

    @property
    def actor(self) -> str:
        assert self.grant is not None
        return self.grant.name

    def text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        return [value for value in self.data.getlist(name) if isinstance(value, str)]

    def numbers(self, name: str) -> list[int]:
        found = self.texts(name)
        if not found or not all(one.isdecimal() and len(one) < 16 for one in found):
            raise UsageError(f"{name} is no list of numbers")
        return [int(one) for one in found]

    def files(self, name: str) -> list[UploadFile]:
        return [one for one in self.data.getlist(name) if isinstance(one, UploadFile) and one.size]

    def this_class(self, box: Box) -> str:
        """The class of the path, if it is as it was when the page was made. Raises Stale."""
        name = name_of(box, str(self.path["id"]))
        check_match(box, name, self.text("etag"))
        return name


@dataclass(frozen=True)
class Outcome:
    """Where to go after a form, and what to say there. `token`: for the cookie of who pairs."""

    go: str
    said: Said = Said()
    token: str = ""


Handler = Callable[[Filled], Outcome]
Form = tuple[str, str | None, Handler, str]


def of_entry(form: Filled, go: str, entry: Entry) -> Outcome:
    return Outcome(go, Said(said_of(form.words, entry.summary) or entry.summary, entry.seq))


def of_job(job: Job) -> Outcome:
    return Outcome(f"/jobs/{job.id}")


# ---- teach --------------------------------------------------------------------------------------


def teach(form: Filled) -> Outcome:
    name = form.text("name")
    photos = [(one.filename or "photo", one.file.read()) for one in form.files("image")]
    if not photos:
        raise UsageError("there is no photo in the form", hint="choose one or more")
    with form.device.writing(form.actor) as box:
        receipts = list(box.teach(name, photos))
        newest = box.history(1)
    taught = [one for one in receipts if one.shot]
    bad = next((one.error for one in receipts if one.error is not None), None)
    if not taught:
        skipped = next((one.skipped for one in receipts if one.skipped is not None), None)
        reason = form.words(f"reason.{skipped.reason}") if skipped else ""
        said = Said(form.words("teach.skipped", reason=reason)) if skipped else Said(error=bad)
        return Outcome("/teach", said)
    text = form.words("teach.taught", n=len(taught), name=taught[0].class_name)
    if left := len(receipts) - len(taught):
        text += f" · {form.words('teach.left', n=left)}"
    return Outcome("/classes", Said(text, newest[0].seq if newest else None, bad))


def teach_clip(form: Filled) -> Outcome:
    given = form.files("video")
    if not given:
        raise UsageError("there is no video in the form", hint="choose one")
    name = clean_name(form.text("name"))
    origin = ClipFrom(given[0].filename or "")
    return of_job(work.teach_clip(form.call, name, origin, given[0].file.read()))


def teach_by_name(form: Filled) -> Outcome:
    name, prompt = form.text("name"), form.text("prompt").strip() or None
    with form.device.writing(form.actor) as box:
        entry = box.teach_by_name(name, prompt)
        row, _ = box.show(name)
    return of_entry(form, f"/classes/{row.id}", entry)


# ---- one class ----------------------------------------------------------------------------------


def rename(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.rename(form.this_class(box), form.text("name"))
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def merge(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.merge(form.this_class(box), form.text("into"), force=bool(form.text("force")))
        into, _ = box.show(form.text("into"))
    return of_entry(form, f"/classes/{into.id}", entry)


def split(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.split(form.this_class(box), form.texts("shots"), form.text("new"))
        new, _ = box.show(form.text("new"))
    return of_entry(form, f"/classes/{new.id}", entry)


def relabel(form: Filled) -> Outcome:
    if not form.texts("shots"):
        raise UsageError("no shot was chosen", hint="choose those that are wrong")
    with form.device.writing(form.actor) as box:
        form.this_class(box)
        entry = box.relabel(form.texts("shots"), form.text("class"), force=bool(form.text("force")))
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def disable(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.disable(form.this_class(box))
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def enable(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.enable(form.this_class(box))
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def retention(form: Filled) -> Outcome:
    """What folds has no way back, so it needs a tick."""
    if not form.text("sure"):
        raise UsageError(form.words("class.keep.unsure"))
    keep: Retain = "statistics" if form.text("retain") == "statistics" else "rows"
    (budget,) = form.numbers("budget")
    with form.device.writing(form.actor) as box:
        entry = box.retention(form.this_class(box), keep, budget)
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def allow(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        entry = box.allow(form.texts("refusal"))
    return of_entry(form, f"/classes/{form.path['id']}", entry)


def remove(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        return of_entry(form, "/classes", box.remove(form.this_class(box)))


def purge(form: Filled) -> Outcome:
    with form.device.writing(form.actor) as box:
        name = form.this_class(box)
        if form.text("sure").strip().casefold() != name.casefold():
            raise UsageError(form.words("class.purge.differs"))
        gone = box.purge(name)
    return Outcome("/classes", Said(form.words("class.purge.done", n=gone.shots)))


# ---- unknown, history ---------------------------------------------------------------------------


def name_unknown(form: Filled) -> Outcome:
    moments = form.numbers("moments")
    with form.device.writing(form.actor) as box:
        receipts = box.name_unknown(moments, form.text("name"))
        newest = box.history(1)
    text = form.words("unknown.named", n=len(receipts), name=receipts[0].class_name)
    return Outcome("/unknown", Said(text, newest[0].seq))


def ignore_unknown(form: Filled) -> Outcome:
    moments = form.numbers("moments")
    with form.device.writing(form.actor) as box:
        box.ignore_unknown(moments)
    return Outcome("/unknown", Said(form.words("unknown.ignored", n=len(moments))))


def undo(form: Filled) -> Outcome:
    (entry,) = form.numbers("entry")
    with form.device.writing(form.actor) as box:
        return of_entry(form, _own(form.text("go"), "/history"), box.undo(entry))


# ---- device -------------------------------------------------------------------------------------


def restore(form: Filled) -> Outcome:
    given = form.files("backup")
    if not given:
        raise UsageError("there is no file in the form", hint="choose a backup file")
    folder = form.device.settings.state
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".restore-", delete=False) as file:
        path = Path(file.name)
        while part := given[0].file.read(1 << 20):
            file.write(part)
    try:
        done = form.device.restore(path, form.actor, replace=bool(form.text("replace")))
    finally:
        path.unlink(missing_ok=True)
    return Outcome("/device", Said(form.words("device.restored", n=done.info.classes)))


def build_engine(form: Filled) -> Outcome:
    return of_job(work.build_engine(form.call, BuildEngine()))


def verify_engine(form: Filled) -> Outcome:
    return of_job(work.verify_engine(form.call, VerifyEngine()))


def clean_engines(form: Filled) -> Outcome:
    removed = work.clean_engines(form.call, CleanEngines()).removed
    return Outcome("/device", Said(form.words("device.engine.cleaned", n=len(removed))))


def evaluate(form: Filled) -> Outcome:
    given = [(one.filename or "", one) for one in form.files("image")]
    if not given:
        raise UsageError("there is no photo in the form", hint="choose a folder")
    photos = [(folder_of(name), source_of(name), one.file.read()) for name, one in given]
    return of_job(work.evaluate(form.call, photos))


def pairing(form: Filled) -> Outcome:
    view = people.shown(form.access.invite(form.text("role"), by=form.actor), form.call.base)
    return Outcome("/device#access", Said(pairing=view))


def revoke(form: Filled) -> Outcome:
    people.revoke(form.call, form.text("id"))
    return Outcome("/device#access", Said(form.words("device.access.revoked")))


def pair(form: Filled) -> Outcome:
    admitted = people.pair(form.call, Pair(form.text("code"), form.text("name")))
    decides = form.device.settings.fleet_owner is not None and admitted.access.role == OWNER
    home = "/fleet/owner" if decides and not form.device.sources else "/"
    return Outcome(home, token=admitted.token)


FORMS: Sequence[Form] = (
    # path, role, handler, and the page (or its part) to go back to when it fails
    ("/teach", OPERATOR, teach, "/teach"),
    ("/teach/clip", OPERATOR, teach_clip, "/teach"),
    ("/teach/by-name", OPERATOR, teach_by_name, "/teach"),
    ("/classes/{id}/rename", OPERATOR, rename, "/classes/{id}"),
    ("/classes/{id}/merge", OPERATOR, merge, "/classes/{id}"),
    ("/classes/{id}/split", OPERATOR, split, "/classes/{id}?split=1"),
    ("/classes/{id}/relabel", OPERATOR, relabel, "/classes/{id}"),
    ("/classes/{id}/disable", OPERATOR, disable, "/classes/{id}"),
    ("/classes/{id}/enable", OPERATOR, enable, "/classes/{id}"),
    ("/classes/{id}/retention", OWNER, retention, "/classes/{id}"),
    ("/classes/{id}/allow", OPERATOR, allow, "/classes/{id}"),
    ("/classes/{id}/remove", OPERATOR, remove, "/classes/{id}"),
    ("/classes/{id}/purge", OWNER, purge, "/classes/{id}"),
    ("/unknown/name", OPERATOR, name_unknown, "/unknown"),
    ("/unknown/ignore", OPERATOR, ignore_unknown, "/unknown"),
    ("/history/undo", OPERATOR, undo, "/history"),
    ("/device/restore", OWNER, restore, "/device"),
    ("/device/engine", OWNER, build_engine, "/device"),
    ("/device/engine/verify", OWNER, verify_engine, "/device"),
    ("/device/engine/clean", OWNER, clean_engines, "/device"),
    ("/device/evaluate", OPERATOR, evaluate, "/device"),
    ("/device/pairing", OWNER, pairing, "/device#access"),
    ("/device/revoke", OWNER, revoke, "/device#access"),
    ("/pair", None, pair, "/pair"),
)


def form_routes(pages: Pages, access: Access, forms: Sequence[Form] = FORMS) -> list[BaseRoute]:
    routes: list[BaseRoute] = [
        Route(path, _endpoint(pages, access, role, handler, back), methods=["POST"])
        for path, role, handler, back in forms
    ]
    return [*routes, Route("/look", _look(pages), methods=["POST"])]


def _endpoint(
    pages: Pages, access: Access, role: str | None, handler: Handler, back: str
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        grant = grant_of(request)
        in_background = "application/json" in request.headers.get("accept", "")
        form: Filled | None = None
        try:
            require(role, grant)
            async with request.form(max_files=MOST_PHOTOS, max_fields=MOST_FIELDS) as data:
                key = str(data.get("key") or "")[:200]
                words = Words(pages.look(request).language)
                call = call_of(request, pages.device, access)
                form = Filled(pages.device, access, grant, data, request.path_params, words, call)
                outcome = await to_thread.run_sync(_once, pages, handler, form, key)
        except AccrueError as error:
            return _failed(pages, request, form, error, back, in_background=in_background)
        except HTTPException as error:
            problem = UsageError(f"the form cannot be read: {error.detail}")
            return _failed(pages, request, form, problem, back, in_background=in_background)
        except Exception as error:
            return unexpected(error)
        said = outcome.said
        told = said.text or said.error or said.pairing
        go = pages.say(grant, outcome.go, said) if told else outcome.go
        if in_background:
            entry = {"seq": said.entry, "summary": said.text} if said.entry else None
            cue = "undone" if handler is undo else "taught"
            return JSONResponse({"go": go, "text": said.text, "entry": entry, "cue": cue})
        response = RedirectResponse(go, 303)
        if outcome.token:
            sign_in(response, request, outcome.token)
        return response

    return endpoint


def _once(pages: Pages, handler: Handler, form: Filled, key: str) -> Outcome:
    """Does it, unless the same form was sent before; then what was said of it then."""
    if not key or form.grant is None:
        return handler(form)
    who, key = form.grant.id, f"form {handler.__name__} {key}"
    if known := pages.replies.get(who, key):
        then = json.loads(known.body)
        said = Said(then["text"], then["entry"], undo_at=then["undo_at"])
        return Outcome(then["go"], said)
    outcome = handler(form)
    said = outcome.said
    kept = {"text": said.text, "entry": said.entry, "undo_at": said.undo_at}
    body = json.dumps({"go": outcome.go, **kept})
    pages.replies.keep(who, key, "", 303, body.encode())
    return outcome


def _failed(
    pages: Pages,
    request: Request,
    form: Filled | None,
    error: AccrueError,
    back: str,
    *,
    in_background: bool,
) -> Response:
    """Back to the page, which shows what is there now, says what went wrong, and keeps the words
    that were typed."""
    grant = grant_of(request)
    if grant is None and back != "/pair":
        go = "/pair"
    else:
        part = request.url.path.rpartition("/")[2]
        wanted = {} if form is None else {key: form.text(key) for key in KEPT}
        said = Said(error=error, open=part, wanted=wanted)
        go = pages.say(grant, back.format(**request.path_params), said)
    if in_background:
        status, _ = status_of(error)
        return JSONResponse({**document(error), "go": go}, status)
    return RedirectResponse(go, 303)


def _look(pages: Pages) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        async with request.form(max_files=0, max_fields=20) as data:
            look = pages.look(request).changed(data)
            go = _own(str(data.get("go") or ""), "/")
        response = RedirectResponse(go, 303)
        response.set_cookie(
            COOKIE, look.cookie(), max_age=COOKIE_SECONDS, path="/", samesite="strict"
        )
        return response

    return endpoint


def _own(path: str, otherwise: str) -> str:
    """A path of this console; never another host."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else otherwise
