"""The console's screens: what each shows, and to whom."""

from __future__ import annotations

import mimetypes
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from accrue.errors import AccrueError, Conflict, NotFound
from accrue.service.access import OPERATOR, OWNER, VIEWER, Access
from accrue.service.console import owner
from accrue.service.console.forms import FORMS, form_routes
from accrue.service.console.page import HERE, Pages, Said, call_of
from accrue.service.http import verbs, work
from accrue.service.http.guard import grant_of
from accrue.service.http.problems import problem, status_of
from accrue.service.http.replies import Replies
from accrue.service.http.shapes import class_view, name_of
from accrue.service.http.table import PREFIX, require
from accrue.store import ClassRow

if TYPE_CHECKING:
    from accrue.service.daemon import Device

SHOTS_SHOWN = 60
GROUPS_SHOWN = 20
STANDING = {  # of a fleet that cannot be followed yet
    **{"fleet": "", "name": "", "connected": False, "settled": False, "revoked": False},
    **{"devices": 0, "unsent": 0, "drafts": 0, "new_key": "", "problems": []},
    **{"installed": {}, "drafted": [], "synced_at": None},
}
INSTALLED = {"number": 0, "wanted": 0, "refused": "", "accuracy": None, "before": None}
_COMMANDS = {
    work.CLIP: ("accrue class teach NAME CLIP.mp4",),
    work.EVALUATE: ("accrue evaluate FOLDER",),
    work.BUILD: ("accrue engine build",),
    work.VERIFY: ("accrue engine verify",),
}
Screen = Callable[["Asked"], Response]


class Asked:
    """One request for a screen."""

    def __init__(self, request: Request, device: Device, access: Access, pages: Pages) -> None:
        self.request, self.device, self.access, self.pages = request, device, access, pages
        self.grant = grant_of(request)
        self.said = pages.said(request)
        self.event = device.events.last  # before anything is read

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "")[:200]

    def show(self, page: str, **values: Any) -> Response:
        return self.pages.show(self.request, page, said=self.said, event=self.event, **values)


# ---- screens ------------------------------------------------------------------------------------


def live(ask: Asked) -> Response:
    sources = " ".join(shlex.quote(source) for source in ask.device.sources) or "camera:0"
    return ask.show(
        "live",
        modules=["live.js"] if ask.device.sources else [],
        cameras=ask.device.cameras(),
        cli=[f"accrue watch {sources}", "accrue why PHOTO"],
    )


def teach(ask: Asked) -> Response:
    may = ask.grant is not None and ask.grant.may(OPERATOR)
    with ask.device.reading() as box:
        rows = box.classes()
        by_name = box.bundle.manifest.text is not None
    name = ask.query("class") or ask.said.wanted.get("name", "")
    source = ask.device.sources[0] if ask.device.sources else "PHOTO"
    return ask.show(
        "teach",
        modules=["teach.js"] if ask.device.sources and may else [],
        names=_names(rows),
        name=name,
        by_name=by_name,
        cameras=ask.device.cameras(),
        cli=[
            f"accrue class teach {shlex.quote(name or 'NAME')} {shlex.quote(source)}",
            f"accrue class teach {shlex.quote(name or 'NAME')} CLIP.mp4",
            *[f"accrue class teach {shlex.quote(name or 'NAME')} --by-name"] * by_name,
        ],
    )


def classes(ask: Asked) -> Response:
    with ask.device.reading() as box:
        rows = [row for row in box.classes() if row.counts_as is None]
        quality = {one.name: one for one in box.quality()} if rows else {}
    wanted = ask.query("q")
    if wanted:
        key = wanted.casefold()
        rows = [row for row in rows if any(key in n.casefold() for n in (row.name, *row.aliases))]
    return ask.show(
        "classes",
        rows=rows,
        quality={name: _numbers(one) for name, one in quality.items()},
        q=wanted,
        cli=["accrue class list", "accrue class quality"],
    )


def one_class(ask: Asked) -> Response:
    key = str(ask.request.path_params["id"])
    with ask.device.reading() as box:
        name = name_of(box, key)
        row, shots = box.show(name)
        etag = class_view(row, box.learned()).etag
        others = [o for o in box.classes() if o.id != row.id and o.counts_as is None]
        found = {one.name: one for one in box.quality()}.get(row.name)
        doubtful = {s.shot.id: s.looks_like for s in box.suspects(name) if s.margin < 0}
        refusals = box.refusals(name)
        split = None
        if ask.query("split"):
            try:
                split = box.suggest_split(name)
            except Conflict as error:
                if ask.said.error is None:
                    ask.said = Said(error=error)
    likely = found.confusable[0].label if found is not None and found.confusable else ""
    others.sort(key=lambda other: (other.name != likely, other.name.casefold()))
    quoted = shlex.quote(row.name)
    return ask.show(
        "class",
        row=row,
        etag=etag,
        shots=list(reversed(shots))[:SHOTS_SHOWN],
        more_shots=max(0, len(shots) - SHOTS_SHOWN),
        others=others,
        q=None if found is None else _numbers(found),
        doubtful=doubtful,
        refusals=refusals,
        split=split,
        title=row.name,
        cli=[
            f"accrue class show {quoted}",
            f"accrue class rename {quoted} NEW",
            f"accrue class merge {quoted} INTO",
            f"accrue class {'enable' if row.disabled else 'disable'} {quoted}",
        ],
    )


def unknown(ask: Asked) -> Response:
    with ask.device.reading() as box:
        groups = box.unknown()[:GROUPS_SHOWN]
        names = _names(box.classes())
    return ask.show(
        "unknown",
        modules=["unknown.js"],
        groups=groups,
        names=names,
        waiting_unknown=len(groups),
        cli=["accrue unknown list", "accrue unknown name NAME MOMENT..."],
    )


def history(ask: Asked) -> Response:
    limit = int(ask.query("limit")) if ask.query("limit").isdecimal() else 50
    limit = min(max(limit, 10), 1000)
    with ask.device.reading() as box:
        entries = box.history(limit + 1)
    return ask.show(
        "history",
        entries=entries[:limit],
        more=len(entries) > limit and limit < 1000,
        limit=limit,
        cli=["accrue history", "accrue undo ENTRY"],
    )


def fleet(ask: Asked) -> Response:
    with ask.device.reading() as box:
        names = {row.id: row.name for row in box.classes()}
    found = ask.device.fleet()
    return ask.show(
        "fleet",
        fleet=None if found is None else {**STANDING, **found},
        installed={**INSTALLED, "remarks": [], **((found or {}).get("installed") or {})},
        names=names,
        owned=owner.owned(call_of(ask.request, ask.device, ask.access)),
        cli=["accrue fleet status", "accrue fleet join CODE", "accrue set diff FILE"],
    )


def device(ask: Asked) -> Response:
    owner = ask.grant is not None and ask.grant.may(OWNER)
    with ask.device.reading() as box:
        store = box.reading()
        used = store.held().total if store is not None else 0
        there = len(box.classes())
    engine = verbs.engine(call_of(ask.request, ask.device, ask.access))
    settings = None
    if ask.query("config") and owner:
        settings = work.config(call_of(ask.request, ask.device, ask.access)).settings
    checks = None
    if ask.query("doctor") and ask.grant is not None and ask.grant.may(OPERATOR):
        from accrue.service.doctor import examine

        checks = list(examine(ask.device.settings))
    return ask.show(
        "device",
        cameras=ask.device.cameras(),
        about=ask.device.status(),
        jobs=ask.device.jobs.all()[:5],
        engine=engine,
        can_build=any("engine build" in one.hint for one in engine.chain),
        used=used,
        budget=ask.device.settings.memory,
        any=there,
        checks=checks,
        settings=settings,
        access=ask.access.all() if owner else [],
        me=ask.grant.id if ask.grant else "",
        cli=[
            *("accrue doctor", "accrue engine status", "accrue backup FILE", "accrue pair"),
            *("accrue evaluate FOLDER", "accrue config show --origin"),
        ],
    )


def job(ask: Asked) -> Response:
    found = ask.device.jobs.get(str(ask.request.path_params["id"]))
    result = found.result or {}
    return ask.show(
        "job",
        job=found,
        result=result,
        per_class=sorted((result.get("per_class") or {}).items(), key=lambda c: c[1]["accuracy"]),
        cli=_COMMANDS.get(found.name, ()),
    )


def nothing(ask: Asked) -> Response:
    """What is at no address. Those who ask for the API are told as it tells."""
    path = ask.request.url.path
    error = NotFound(f"there is nothing at {path[:120]}")
    if path.startswith(PREFIX) or "text/html" not in ask.request.headers.get("accept", ""):
        return problem(error)
    return ask.pages.show(ask.request, "problem", status=404, said=Said(error=error), back="/")


def pair(ask: Asked) -> Response:
    return ask.show("pair", cli=["accrue pair"])


SCREENS: tuple[tuple[str, str | None, Screen], ...] = (
    ("/", VIEWER, live),
    ("/teach", VIEWER, teach),
    ("/classes", VIEWER, classes),
    ("/classes/{id}", VIEWER, one_class),
    ("/unknown", VIEWER, unknown),
    ("/history", VIEWER, history),
    ("/fleet", VIEWER, fleet),
    ("/fleet/owner", OWNER, owner.home),
    ("/fleet/owner/diff", OWNER, owner.difference),
    ("/device", VIEWER, device),
    ("/jobs/{id}", VIEWER, job),
    ("/pair", None, pair),
)


class _Files(StaticFiles):
    """Asked for again each time, and not sent again where nothing has changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def console_routes(device: Device, access: Access, replies: Replies) -> list[BaseRoute]:
    """The routes of the console, for `more` of `create_app`."""
    mimetypes.add_type("text/javascript", ".js")  # some machines have it as text/plain
    pages = Pages(device, replies)
    screens: list[BaseRoute] = [
        Route(path, _endpoint(device, access, pages, role, screen), methods=["GET"])
        for path, role, screen in SCREENS
    ]
    files = Mount("/console", _Files(directory=HERE / "static"), name="console")
    forms = form_routes(pages, access, [*FORMS, *owner.FORMS])
    rest = Route("/{path:path}", _endpoint(device, access, pages, None, nothing), methods=["GET"])
    return [*screens, *forms, files, rest]


def _endpoint(
    device: Device, access: Access, pages: Pages, role: str | None, screen: Screen
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        if role is not None and grant_of(request) is None:
            return RedirectResponse("/pair", 303)
        ask = Asked(request, device, access, pages)
        try:
            require(role, ask.grant)
            return await to_thread.run_sync(screen, ask)
        except AccrueError as error:
            path = request.url.path
            back = next((one for one in ("/classes", "/fleet") if path.startswith(f"{one}/")), "/")
            return pages.show(
                request,
                "problem",
                status=status_of(error)[0],
                said=Said(error=error),
                back=back,
            )

    return endpoint


def _names(rows: list[ClassRow]) -> list[str]:
    """Names to choose from: those that are disabled come last."""
    return [row.name for row in sorted(rows, key=lambda row: row.disabled)]


def _numbers(report: Any) -> dict[str, Any]:
    """A report with None where a number does not exist."""
    accuracy = report.accuracy
    return {**vars(report), "accuracy": None if accuracy != accuracy else accuracy}
