"""A device with a real HTTP server on a free port, and what the tests of HTTP share."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from accrue.service.access import ROLES, Access
from accrue.service.daemon import Device
from accrue.service.http.app import create_app

DEADLINE_S = 20.0
KINDS = {"bolt": 1, "nut": 2, "gear": 3}


class Running:
    """A device, its server, and a client for each role.

    Attributes:
        url: of the server. tokens: by role.
    """

    def __init__(self, device: Device, access: Access, **options: Any) -> None:
        self.device, self.access = device, access
        self.app = create_app(device, access=access)
        self.socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self.app,
            log_config=None,
            lifespan="on",
            timeout_graceful_shutdown=2,
            ws="websockets-sansio",
            **options,
        )
        self.server = uvicorn.Server(config)
        scheme = "https" if options.get("ssl_certfile") else "http"
        self.url = f"{scheme}://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        self.tokens = {role: access.add(f"a {role}", role, by="tests")[1] for role in ROLES}
        until(lambda: self.server.started)

    def client(self, role: str | None = "owner", **more: Any) -> httpx.Client:
        headers = {} if role is None else {"authorization": f"Bearer {self.tokens[role]}"}
        base = self.url + "/api/v1"
        return httpx.Client(base_url=base, headers=headers, timeout=DEADLINE_S, **more)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


def until(holds: Callable[[], object], deadline_s: float = DEADLINE_S) -> Any:
    """Waits for something to hold; its value."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to hold")


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
