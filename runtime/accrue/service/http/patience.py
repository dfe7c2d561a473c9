"""How long the server waits for others, and for how many of one address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from accrue.service.http.problems import TooSlow

REQUEST_WITHIN_S = 20.0  # from the connection, or the first byte of a next request, to its headers
BODY_WITHIN_S, BODY_BYTES_PER_S = 30.0, 10_000  # a body may take that long, and a second per 10 kB
MOST_OF_ADDRESS = 200  # connections of one address, of the 500 in all

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Patient(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a connection on which nothing is asked does not last.

    Without this, some hundred connections that say nothing keep everybody else out.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            address = self.client[0]
            others = (getattr(other, "client", None) for other in self.connections)
            if sum(1 for other in others if other and other[0] == address) > MOST_OF_ADDRESS:
                transport.abort()
                return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiting is None and not self._is_asked and not self.transport.is_closing():
            self._wait()

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_asked:
            self._wait_no_more()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._wait_no_more()
        super().handle_websocket_upgrade(event)
        self._upgraded = True

    _upgraded = False

    @property
    def _is_asked(self) -> bool:
        """Whether a request is being answered; its body has a time limit of its own."""
        return self._upgraded or (self.cycle is not None and not self.cycle.response_complete)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(REQUEST_WITHIN_S, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def in_time(receive: Receive) -> Receive:
    """The same messages, but raises TooSlow where the body of a request comes too slowly."""
    began, size, over = 0.0, 0, False

    async def receiving() -> Message:
        nonlocal began, size, over
        if over:  # what comes now is that the other end has gone
            return await receive()
        now = time.monotonic()
        began = began or now
        left = began + BODY_WITHIN_S + size / BODY_BYTES_PER_S - now
        try:
            message = await asyncio.wait_for(receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise TooSlow(
                f"the request came too slowly: {size:,} bytes in {now + left - began:.0f} s",
                hint="send it again over a better connection",
                found=size,
            ) from None
        size += len(message.get("body", b""))
        over = not message.get("more_body", False)
        return message

    return receiving
