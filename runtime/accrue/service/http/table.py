"""The table of operations: what can be asked, by whom, with what, and how a request becomes a call.

A handler is a plain function. Its signature says what it takes: `call` first, then the parameters
of the path by name, and as far as it wants them `body` and `query` (dataclasses) and `images`. What
it returns is a dataclass, or `File`. It runs in a thread of its own; a coroutine function gets the
request itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from accrue.errors import AccessDenied, AccrueError, Conflict, NotFound, UsageError
from accrue.service.access import VIEWER
from accrue.service.http.problems import AtWork, NotSignedIn, TooLarge, problem, unexpected
from accrue.service.http.schema import plain, read, read_text

if TYPE_CHECKING:
    from accrue.service.access import Access, Grant
    from accrue.service.daemon import Device
    from accrue.service.http.replies import Replies

PREFIX = "/api/v1"
JSON_BYTES = 1 << 20
MOST_IMAGES = 200
READERS, WRITERS = 12, 8  # threads
UPLOADS_AT_ONCE = 3  # their bytes are held in memory
Images = list[tuple[str, bytes]]
Labelled = list[tuple[str, str, bytes]]  # class, name, content


@dataclass(frozen=True)
class File:
    """An answer that is no JSON: bytes, or a file that is deleted once it was sent."""

    media: str
    content: bytes | Path = b""
    name: str = ""
    etag: str = ""
    seconds: int = 0  # that a browser may keep it

    def response(self, request: Request) -> Response:
        headers = {
            "cache-control": f"private, max-age={self.seconds}" if self.seconds else "no-store"
        }
        if self.etag:
            headers["etag"] = self.etag
            if request.headers.get("if-none-match") == self.etag:
                return Response(status_code=304, headers=headers)
        if self.name:
            headers["content-disposition"] = f'attachment; filename="{self.name}"'
        if isinstance(self.content, Path):
            done = BackgroundTask(self.content.unlink, missing_ok=True)
            return FileResponse(self.content, 200, headers, self.media, background=done)
        return Response(self.content, 200, headers, self.media)


@dataclass(frozen=True)
class Call:
    """One request, as a handler sees it.

    Attributes:
        grant: who asks; None for an operation that is open to all.
        if_match: the header, or "".
        address: where the request is from. base: the address that others call it by.
        answer: headers and status of the answer, for the handler to change.
    """

    device: Device
    access: Access
    grant: Grant | None
    if_match: str
    address: str
    base: str
    answer: Answering = field(default_factory=lambda: Answering())

    @property
    def actor(self) -> str:
        """As the journal has it."""
        return self.grant.name if self.grant is not None else "nobody"


@dataclass
class Answering:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""  # that the cookie shall hold


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        method: or `WS`. path: below `/api/v1`, or from the root where `rooted`.
        role: that is needed; None: open to all. status: of success.
        retry: whether `Idempotency-Key` is heeded. match: whether `If-Match` is.
        media: of an answer that is no JSON. upload: media type of a body that is a file.
        also: further answers, by status.
        query, returns: of a live handler, whose signature does not tell.
    """

    method: str
    path: str
    role: str | None
    handler: Callable[..., Any]
    status: int = 200
    retry: bool = False
    match: bool = False
    media: str = ""
    upload: str = ""
    rooted: bool = False
    also: dict[int, str] = field(default_factory=dict)
    query: type | None = None
    returns: type | None = None

    @property
    def url(self) -> str:
        return self.path if self.rooted else PREFIX + self.path

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def wants(self) -> dict[str, Any]:
        """Types of the parameters, beside `call`."""
        if self.live:
            return {} if self.query is None else {"query": self.query}
        known = typing.get_type_hints(self.handler)
        names = list(inspect.signature(self.handler).parameters)[1:]
        return {name: known[name] for name in names}

    @property
    def gives(self) -> Any:
        return self.returns if self.live else typing.get_type_hints(self.handler).get("return")

    @property
    def live(self) -> bool:
        return inspect.iscoroutinefunction(self.handler)


class Table:
    """Operations, in the order in which they were added."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(
        self, method: str, path: str, role: str | None, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def put(handler: Callable[..., Any]) -> Callable[..., Any]:
            self.operations.append(Operation(method, path, role, handler, **more))
            return handler

        return put

    def __iter__(self) -> typing.Iterator[Operation]:
        return iter(self.operations)


class Runner:
    """Turns requests into calls of handlers, and what they return into answers."""

    def __init__(
        self, device: Device, access: Access, replies: Replies, public: Callable[[], str]
    ) -> None:
        self.device, self.access, self.replies = device, access, replies
        self._public = public
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        # Of their own, so that those who wait for a long write keep nobody from reading, and none
        # of them keeps the guard from saying who asks.
        self._readers, self._writers = CapacityLimiter(READERS), CapacityLimiter(WRITERS)
        self._under_way: set[tuple[str, str]] = set()

    def routes(self, table: Table) -> list[BaseRoute]:
        found: list[BaseRoute] = []
        for operation in table:
            if operation.method == "WS":
                found.append(WebSocketRoute(operation.url, operation.handler))
            else:
                endpoint = self._endpoint(operation)
                found.append(Route(operation.url, endpoint, methods=[operation.method]))
        return found

    def _endpoint(self, operation: Operation) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                require(operation.role, request.scope["state"].get("grant"))
                if operation.live:
                    return await operation.handler(request)  # type: ignore[no-any-return]
                return await self._run(operation, request)
            except AccrueError as error:
                return problem(error)
            except (HTTPException, ClientDisconnect):
                raise
            except Exception as error:
                return unexpected(error)

        return endpoint

    async def _run(self, operation: Operation, request: Request) -> Response:
        call = Call(
            self.device,
            self.access,
            request.scope["state"].get("grant"),
            request.headers.get("if-match", ""),
            request.client.host if request.client else "",
            self._public() or f"{request.url.scheme}://{request.headers.get('host', '')}",
        )
        wants = operation.wants
        arguments: dict[str, Any] = {}
        for name, value in request.path_params.items():
            if isinstance(value, int) and value >= 2**63:  # nothing is numbered so
                raise NotFound(f"there is nothing at {request.url.path[:120]}")
            arguments[name] = value
        if "query" in wants:
            arguments["query"] = read_text(wants["query"], request.query_params)
        if "images" in wants or "photos" in wants or operation.upload:
            async with self._uploads:
                return await self._with_body(operation, request, call, arguments)
        return await self._with_body(operation, request, call, arguments)

    async def _with_body(
        self, operation: Operation, request: Request, call: Call, arguments: dict[str, Any]
    ) -> Response:
        wants = operation.wants
        digest = hashlib.sha256(f"{operation.method} {request.url.path}".encode())
        if "images" in wants:
            arguments["images"] = [(source_of(name), data) for name, data in await _images(request)]
            for name, content in arguments["images"]:
                digest.update(f"\0{name}\0{len(content)}\0".encode())
                digest.update(content)
        elif "photos" in wants:
            arguments["photos"] = [
                (folder_of(name), source_of(name), content)
                for name, content in await _images(request)
            ]
        elif operation.upload:
            arguments["body"] = await request.body()
            if not arguments["body"]:
                raise UsageError("the body is empty", hint="send the file as the body")
            digest.update(b"\0" + arguments["body"])
        elif "body" in wants:
            raw = await _limited(request, JSON_BYTES)
            digest.update(b"\0" + raw)
            arguments["body"] = read(wants["body"], _json(request, raw, wants["body"]))
        key = request.headers.get("idempotency-key", "") if operation.retry else ""
        if not key or call.grant is None:
            return await self._answered(operation, request, call, arguments)
        if len(key) > 200:
            raise UsageError("Idempotency-Key is longer than 200 characters")
        known = call.grant.id, key
        if known in self._under_way:
            raise AtWork("this request is at work already", hint="ask again in a second")
        if reply := self.replies.get(*known):
            if reply.digest != digest.hexdigest():
                raise Conflict(
                    "this Idempotency-Key was used for another request",
                    hint="use a new key for each thing that is to be done",
                )
            headers = {"idempotent-replayed": "true", "cache-control": "no-store"}
            return Response(reply.body, reply.status, headers, "application/json")
        self._under_way.add(known)
        try:
            response = await self._answered(operation, request, call, arguments)
            if response.status_code < 300:
                content = bytes(response.body)
                await to_thread.run_sync(
                    self.replies.keep, *known, digest.hexdigest(), response.status_code, content
                )
            return response
        finally:
            self._under_way.discard(known)

    async def _answered(
        self, operation: Operation, request: Request, call: Call, arguments: dict[str, Any]
    ) -> Response:
        reads = operation.method == "GET" or operation.role == VIEWER
        limiter = self._readers if reads else self._writers
        found = await to_thread.run_sync(
            lambda: operation.handler(call, **arguments), limiter=limiter
        )
        if isinstance(found, File):
            return found.response(request)
        status = call.answer.status or operation.status
        headers = {"cache-control": "no-store", **call.answer.headers}
        etag = headers.get("etag")
        if etag and request.method == "GET" and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        if found is None:
            return Response(status_code=204, headers=headers)
        text = json.dumps(plain(found), ensure_ascii=False, separators=(",", ":"))
        response = Response(text.encode(), status, headers, "application/json")
        if call.answer.token:
            from accrue.service.http.guard import sign_in

            sign_in(response, request, call.answer.token)
        return response


def require(role: str | None, grant: Grant | None) -> None:
    """Raises where somebody may not do what needs a role."""
    if role is None:
        return
    if grant is None:
        raise NotSignedIn(
            "nobody is signed in here",
            hint="pair this browser with a code from `accrue pair`, or send "
            "`Authorization: Bearer TOKEN` with a token from `accrue access add`",
        )
    if not grant.may(role):
        raise AccessDenied(
            f"{grant.name} is {grant.role}; this needs {role}",
            hint="ask an owner of the device",
            found=grant.role,
            expected=role,
        )


async def _limited(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body is larger than {limit:,} bytes", expected=limit)
        parts.append(part)
    return b"".join(parts)


def _json(request: Request, raw: bytes, kind: type) -> Any:
    if not raw and all(f.default is not dataclasses.MISSING for f in dataclasses.fields(kind)):
        return {}  # nothing has to be said
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UsageError(
            f"the body is {media or 'of no type'}; expected application/json",
            hint="send the header Content-Type: application/json",
            found=media,
            expected="application/json",
        )
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is no JSON: {' '.join(str(error).split())}") from None


async def _images(request: Request) -> Images:
    """The photo that is the body, or the parts called `image` of a form; names as they came."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    found: Images = []
    if media.startswith("image/") or media == "application/octet-stream":
        found.append((request.headers.get("x-filename", ""), await request.body()))
    elif media == "multipart/form-data":
        try:
            async with request.form(max_files=MOST_IMAGES, max_fields=20) as form:
                for name, value in form.multi_items():
                    if not isinstance(value, UploadFile) or name != "image":
                        raise UsageError(
                            f"the form has a field {name[:40]!r}; expected files called image",
                            hint="curl -F image=@photo.jpg -F image=@another.jpg",
                            found=name[:40],
                            expected="image",
                        )
                    found.append((value.filename or "", await value.read()))
        except HTTPException as error:
            raise UsageError(f"the form cannot be read: {error.detail}") from None
    else:
        raise UsageError(
            f"the body is {media or 'of no type'}; expected an image or a form with images",
            hint="send the photo itself with Content-Type: image/jpeg, or a form: "
            "curl -F image=@photo.jpg",
            found=media,
            expected="image/*, multipart/form-data",
        )
    if not found or not all(content for _, content in found):
        raise UsageError("there is no image, or an empty one", hint="curl -F image=@photo.jpg")
    return found


def folder_of(name: str) -> str:
    """The last folder of a file name as it was sent; "" where it has none."""
    return name.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]


def source_of(name: str) -> str:
    """What a file is called in messages and beside the shot: its name, no path, printable."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in last)[:120] or "upload"
