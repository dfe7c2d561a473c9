"""What stands before every request: names it may call the device by, where it is from, who it is,
how much it may send and how often; and the headers of every answer."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from accrue.errors import AccessDenied, AccrueError, RateLimited
from accrue.service.access import OWNER
from accrue.service.http.patience import in_time
from accrue.service.http.problems import TooLarge, TooSlow, problem, unexpected

if TYPE_CHECKING:
    from accrue.service.access import Access, Grant
    from accrue.service.daemon import Device

COOKIE = "accrue"
LARGE = ("/api/v1/restore",)  # where a backup comes in, which is written to the disk as it comes
LARGEST_BYTES = 4 << 30
STRANGER_BYTES = 64 << 10  # who is not known has a pairing code to send, and nothing else
COOKIE_SECONDS = 400 * 24 * 3600  # as long as browsers allow; it is taken back on the device
SAFE = ("GET", "HEAD", "OPTIONS")
REQUESTS_PER_S, BURST = 50.0, 200  # of one who is known, or of one address that is not
STRANGER_PER_S, STRANGER_BURST = 10.0, 60
MOST_BUCKETS = 2000
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Buckets:
    """How often each may ask: a bucket that fills at a steady rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, who: str, per_s: float, burst: int) -> bool:
        now = self._clock()
        level, at = self._levels.pop(who, (float(burst), now))
        level = min(float(burst), level + (now - at) * per_s)
        allowed = level >= 1
        self._levels[who] = (level - 1 if allowed else level), now
        while len(self._levels) > MOST_BUCKETS:  # who has not asked for longest
            del self._levels[next(iter(self._levels))]
        return allowed


class Guard:
    """ASGI middleware; leaves who asks in `scope["state"]["grant"]` (a Grant, or None)."""

    def __init__(self, app: App, device: Device, access: Access) -> None:
        self._app, self._device, self._access = app, device, access
        self._buckets = Buckets()
        self._names = own_names() | {name.lower() for name in device.settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["grant"] = None
        try:
            self._check_host(headers)
            token, by_cookie = _token(headers)
            grant = await to_thread.run_sync(self._access.who, token) if token else None
            state["grant"] = grant
            self._check_rate(scope, grant)
            if scope["type"] == "websocket" or scope["method"] not in SAFE:
                _check_origin(scope, headers, by_cookie=by_cookie and grant is not None)
        except Exception as error:
            known = isinstance(error, AccrueError)
            response = problem(error) if known else unexpected(error)  # type: ignore[arg-type]
            await self._refuse(response, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        limit = self._device.settings.upload if grant is not None else STRANGER_BYTES
        if scope["path"] in LARGE and grant is not None and grant.may(OWNER):
            limit = LARGEST_BYTES
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message, secure=scope.get("scheme") == "https")
                self._device.figures.add(
                    "accrue_http_requests_total",
                    method=scope["method"],
                    status=str(message["status"]),
                )
            await send(message)

        size, patiently = 0, in_time(receive)

        async def receiving() -> Message:
            nonlocal size
            message = await patiently()
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_large(limit)
            return message

        try:
            told = headers.get("content-length", "0")
            if told.isdigit() and int(told) > limit:
                raise _too_large(limit)
            await self._app(scope, receiving, sending)
        except (TooLarge, TooSlow) as error:
            if started:
                raise
            await problem(error)(scope, receive, sending)

    def _check_host(self, headers: Headers) -> None:
        """A page of elsewhere whose name was bent to this address is no page of this device."""
        host = host_name(headers.get("host", ""))
        if host in self._names or host.endswith(".localhost") or _is_address(host):
            return
        raise AccessDenied(
            f"this device is not called {host[:80] or 'nothing'}",
            hint="call it by its address or its own name, or add the name to the setting `hosts`",
            found=host[:80],
        )

    def _check_rate(self, scope: Scope, grant: Grant | None) -> None:
        if grant is not None:
            allowed = self._buckets.take(grant.id, REQUESTS_PER_S, BURST)
        else:
            address = scope["client"][0] if scope.get("client") else ""
            allowed = self._buckets.take(address, STRANGER_PER_S, STRANGER_BURST)
        if not allowed:
            raise RateLimited(
                "too many requests at once", hint=f"at most {REQUESTS_PER_S:.0f} a second"
            )

    async def _refuse(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403})
            return
        response.headers.update(HEADERS)
        await response(scope, receive, send)


def own_names() -> set[str]:
    """What a browser may call this machine by, beside its addresses."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return {"localhost", name, short, f"{short}.local"}


def host_name(host: str) -> str:
    """The host without its port, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the request is larger than {limit:,} bytes",
        hint="send fewer photos at a time; setting `upload` is the limit",
        expected=limit,
    )


def _token(headers: Headers) -> tuple[str, bool]:
    """The token that was sent, and whether as the cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), False
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            return value, True
    return "", False


def _check_origin(scope: Scope, headers: Headers, *, by_cookie: bool) -> None:
    """What changes something must come from a page of this device, if it comes from a page."""
    origin = headers.get("origin")
    if origin is None:
        if by_cookie and headers.get("sec-fetch-site", "") not in ("same-origin", "none"):
            raise AccessDenied(
                "a write with the cookie, but without an Origin",
                hint="programs send a token instead: Authorization: Bearer TOKEN",
            )
        return
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    own = f"{scheme}://{headers.get('host', '')}"
    if origin.lower() != own.lower():
        raise AccessDenied(
            f"a request from a page of {origin[:80]}; expected {own[:80]}",
            hint="open the console of this device itself",
            found=origin[:80],
            expected=own[:80],
        )


def _add_headers(message: Message, *, secure: bool) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if secure:
        headers.setdefault("strict-transport-security", "max-age=31536000")


def grant_of(request: Request) -> Grant | None:
    """Who asks; None if nobody is signed in."""
    found: Grant | None = request.scope.get("state", {}).get("grant")
    return found


def sign_in(response: Response, request: Request, token: str) -> None:
    """Puts a token into the browser's cookie."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=COOKIE_SECONDS,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def sign_out(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
