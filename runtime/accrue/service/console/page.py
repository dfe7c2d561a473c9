"""One page: templates, the words and the look of who asks, and what was just said to them."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from accrue.errors import AccrueError
from accrue.service.access import VIEWER, Grant
from accrue.service.console.look import CHOICES, COOKIE, Look
from accrue.service.console.summaries import said as said_of
from accrue.service.console.words import LANGUAGES, Words
from accrue.service.http.guard import grant_of
from accrue.service.http.problems import status_of
from accrue.service.http.replies import Replies
from accrue.service.http.table import Call

if TYPE_CHECKING:
    from accrue.service.access import Access
    from accrue.service.daemon import Device

HERE = Path(__file__).parent
REMEMBERED = 200
SAID_SECONDS = 120.0
KEPT = (
    "name",
    "into",
    "new",
    "class",
    "code",
    "prompt",
    "remark",
    "note",
)  # fields whose words are shown again
PLACES = {"class": "classes", "owner": "fleet", "owner_diff": "fleet"}  # in the bar
LOOPBACK = ("127.0.0.1", "::1", "localhost", "testclient")


@dataclass(frozen=True)
class Said:
    """What is told on the next page.

    Attributes:
        text: what was done. entry: of the journal, to be undone with one tap at `undo_at`.
        error: or what went wrong. open, wanted: the part of the page that it was about, and what
            had been typed there, so that nobody types it twice.
    """

    text: str = ""
    entry: int | None = None
    error: AccrueError | None = None
    open: str = ""
    wanted: Mapping[str, str] = field(default_factory=dict)
    pairing: Any = None
    undo_at: str = "/history/undo"


class Memory:
    """A few things by key, each to be had for two minutes. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._lock = Lock()

    def keep(self, key: str, value: Any) -> None:
        with self._lock:
            self._kept[key] = time.monotonic(), value
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)

    def get(self, key: str, *, once: bool = False) -> Any:
        with self._lock:
            at, value = self._kept.get(key, (0.0, None))
            if once:
                self._kept.pop(key, None)
            return value if time.monotonic() - at < SAID_SECONDS else None


class Pages:
    """Renders the templates for who asks."""

    def __init__(self, device: Device, replies: Replies) -> None:
        self.device, self.replies = device, replies
        self.memory = Memory()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["utc"] = _utc
        self._templates.filters["megabytes"] = lambda n: f"{n / 1e6:.1f}"

    @staticmethod
    def look(request: Request) -> Look:
        return Look.of(
            request.cookies.get(COOKIE, ""), request.headers.get("accept-language", "")[:200]
        )

    def say(self, grant: Grant | None, go: str, said: Said) -> str:
        """Keeps what is to be told to somebody; the address at which they are told."""
        key = secrets.token_urlsafe(6)
        self.memory.keep(f"said {grant.id if grant else ''} {key}", said)
        path, _, anchor = go.partition("#")
        joint = "&" if "?" in path else "?"
        return f"{path}{joint}said={key}" + (f"#{anchor}" if anchor else "")

    def said(self, request: Request) -> Said:
        grant = grant_of(request)
        key = request.query_params.get("said", "")
        found = self.memory.get(f"said {grant.id if grant else ''} {key}", once=True)
        return found if isinstance(found, Said) else Said()

    def show(
        self,
        request: Request,
        page: str,
        *,
        modules: Sequence[str] = (),
        cli: Sequence[str] = (),
        status: int = 200,
        said: Said | None = None,
        **values: Any,
    ) -> Response:
        """The page as HTML.

        Args:
            page: name of its template and of its place in the bar.
            modules: further ES modules. cli: the commands that do the same.
        """
        look = self.look(request)
        words = Words(look.language)
        grant = grant_of(request)
        said = self.said(request) if said is None else said
        title = f"title.{page}"
        html = self._templates.get_template(f"{page}.html").render(
            {
                "t": words,
                "look": look,
                "look_choices": CHOICES,
                "languages": LANGUAGES,
                "page": PLACES.get(page, page),
                "title": words(title) if words.has(title) else "",
                "role": grant.role if grant else VIEWER,
                "actor": grant.name if grant else "",
                "list": PLACES.get(page, page) in ("classes", "history", "fleet", "device"),
                "told_entry": lambda entry: said_of(words, entry.summary),
                "modules": ["app.js", *modules],
                "cli": cli,
                "plain": _overheard(request),
                "event": self.device.events.last,
                "waiting_unknown": 0,
                "problem": told(words, said.error),
                "done": {
                    "text": said.text,
                    "entry": said.entry,
                    "undo_at": said.undo_at,
                    "go": request.url.path,
                }
                if said.text
                else None,
                "open": said.open,
                "wanted": dict.fromkeys(KEPT, "") | dict(said.wanted),
                "pairing": said.pairing,
                **values,
            }
        )
        return HTMLResponse(html, status, {"cache-control": "no-store"})


def call_of(request: Request, device: Device, access: Access) -> Call:
    """The request as the handlers of the API take it."""
    return Call(
        device,
        access,
        grant_of(request),
        request.headers.get("if-match", ""),
        request.client.host if request.client else "",
        f"{request.url.scheme}://{request.headers.get('host', '')}",
    )


def told(words: Words, error: AccrueError | None) -> dict[str, str] | None:
    """An error in the words of the operator, and then as the box says it."""
    if error is None:
        return None
    by_status = {401: "paired", 403: "role", 412: "changed", 413: "big", 429: "busy", 503: "busy"}
    by_status[502] = "broker"
    by_kind = {"NotFound": "gone", "Conflict": "conflict", "Refused": "refused"}
    status, _ = status_of(error)
    key = by_status.get(status) or by_kind.get(error.kind, "other")
    return {
        "title": words(f"problem.{key}"),
        "message": error.message,
        "hint": error.hint,
        "kind": error.kind,
    }


def _overheard(request: Request) -> bool:
    """Whether it comes over a network without encryption."""
    return request.url.scheme == "http" and (urlsplit(str(request.url)).hostname not in LOOPBACK)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
