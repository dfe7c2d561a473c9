"""The HTTP server of a device: the API, what watches over it, and whatever pages are added."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from accrue.errors import AccrueError, NotFound, UsageError
from accrue.service.access import Access
from accrue.service.http import changes, health, owner, people, verbs, work
from accrue.service.http.guard import Guard
from accrue.service.http.live import Hub, add_live
from accrue.service.http.problems import problem, unexpected
from accrue.service.http.replies import Replies
from accrue.service.http.table import Runner, Table

if TYPE_CHECKING:
    from accrue.service.daemon import Device


def operations(hub: Hub | None = None) -> Table:
    """All operations, live ones too; without a hub, to be read about alone."""
    table = Table()
    for part in (verbs, changes, work, owner, people, health):
        table.operations += part.table.operations
    add_live(table, hub)  # type: ignore[arg-type]
    return table


def create_app(
    device: Device,
    *,
    access: Access | None = None,
    replies: Replies | None = None,
    more: Sequence[BaseRoute] = (),
    public: Callable[[], str] = lambda: "",
) -> Starlette:
    """The application of a device that was started.

    `app.state` has `device`, `access` and `hub`; each request has who asks in
    `request.scope["state"]["grant"]` (`accrue.service.http.guard.grant_of`).

    Args:
        access: who may come in; default: the list in the device's state folder.
        replies: what was answered before; default: those in the state folder. They are closed
            with the application.
        more: further routes, as of the console; they watch over their own roles with
            `accrue.service.http.table.require`.
        public: gives the address that others call the device by, as
            `https://device.local:8420`; default: the one of each request.
    """
    access = access or Access(device.settings.state)
    kept = replies or Replies(device.settings.state)
    hub = Hub(device, access)
    runner = Runner(device, access, kept, public)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        kept.close()

    app = Starlette(
        routes=[*runner.routes(operations(hub)), *more],
        middleware=[Middleware(Guard, device=device, access=access)],
        exception_handlers={
            AccrueError: _known,
            HTTPException: _http,
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )
    app.state.device, app.state.access, app.state.hub = device, access, hub
    return app


async def _known(_: Request, error: Exception) -> Response:
    assert isinstance(error, AccrueError)
    return problem(error)


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(NotFound(f"there is nothing at {request.url.path[:120]}"))
    response = problem(UsageError(f"{request.method} {request.url.path[:120]}: {error.detail}"))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


async def _unexpected(_: Request, error: Exception) -> Response:
    return unexpected(error)


__all__ = ["create_app", "operations"]
