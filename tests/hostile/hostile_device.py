"""A device with its server, taught a little, for tests that ask it for what it should not take."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from accrue.service.access import ROLES, Access
from accrue.service.console.pages import console_routes
from accrue.service.daemon import Device
from accrue.service.http.app import create_app
from accrue.service.http.patience import Patient
from accrue.service.http.replies import Replies
from accrue.service.settings import Settings


@dataclass(frozen=True)
class Open:
    """A device that answers.

    Attributes:
        app: with the console. address, url: of the server. tokens: by role, and "revoked".
    """

    device: Device
    app: Starlette
    address: tuple[str, int]
    url: str
    tokens: dict[str, str]

    def headers(self, role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[role]}"}


@contextmanager
def opened(
    folder: Path, bundle: Path, taught: dict[str, list[Any]] | None = None, **options: Any
) -> Iterator[Open]:
    """taught: images by class, which it is taught first. options: of uvicorn."""
    settings = Settings(
        state=folder,
        bundle=bundle,
        actor="tester",
        views=2,
        thumbnails=64,
        duplicates=1.0,
        blur=1.0,
    )
    with Device(settings, cameras=()) as device, Access(folder) as access:
        for name, images in (taught or {}).items():
            with device.writing("tester") as box:
                assert all(one.shot for one in box.teach(name, [("", i) for i in images]))
        replies = Replies(settings.state)
        pages = console_routes(device, access, replies)
        app = create_app(device, access=access, replies=replies, more=pages)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                lifespan="on",
                http=Patient,
                ws="websockets-sansio",
                timeout_graceful_shutdown=1,
                **options,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        address = listening.getsockname()
        tokens = {role: access.add(f"a {role}", role, by="tests")[1] for role in ROLES}
        gone, tokens["revoked"] = access.add("once", "owner", by="tests")
        access.revoke(gone.id)
        try:
            yield Open(device, app, address, f"http://{address[0]}:{address[1]}", tokens)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
