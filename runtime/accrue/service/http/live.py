"""What goes on as long as somebody looks: the WebSocket, server-sent events, MJPEG, snapshot."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from accrue.errors import NotFound, RateLimited, SourceError, UsageError
from accrue.service.access import VIEWER
from accrue.service.events import ACCESS, Event
from accrue.service.http.problems import document
from accrue.service.http.schema import plain
from accrue.service.http.table import Table, require

if TYPE_CHECKING:
    from accrue.service.access import Access, Grant
    from accrue.service.daemon import Device
    from accrue.vision.sources import Frame

LONGEST_PX = 640
MOST_FPS = 15.0
DEFAULT_FPS = 8.0
MOST_LISTENERS = 64  # WebSockets and event streams at once
KEEP_ALIVE_S = 15.0
CHECK_S = 5.0  # between two looks at whether the token still holds
MESSAGE_BYTES = 4096
TOKEN_GONE, TRY_LATER = 4401, 4429
_BOUNDARY = "accrue-frame"


@dataclass(frozen=True)
class Picture:
    """A frame as JPEG of at most 640 px. `at`: unix seconds at which it was read."""

    at: float
    jpeg: bytes


class Hub:
    """What all who look on share: each frame is made a JPEG once, and only if somebody looks."""

    def __init__(self, device: Device, access: Access) -> None:
        self.device, self.access = device, access
        self.viewers = self.listeners = 0
        self._pictures: dict[int, Picture] = {}
        self._turns: dict[int, asyncio.Lock] = {}

    async def picture(self, camera: int, after: float = 0.0) -> Picture | None:
        """The newest frame, if it is not the one of `after`. Raises NotFound."""
        frame = self.device.frame(camera)
        if frame is None or frame.at == after:  # not "older": the clock may have been set back
            return None
        async with self._turns.setdefault(camera, asyncio.Lock()):
            known = self._pictures.get(camera)
            if known is None or known.at != frame.at:
                known = Picture(frame.at, await to_thread.run_sync(_jpeg, frame))
                self._pictures[camera] = known
                self.device.figures.add("accrue_preview_frames_total", camera=str(camera))
            return known

    @asynccontextmanager
    async def viewing(self) -> AsyncIterator[None]:
        """Counts one who is shown pictures. Raises RateLimited where there are too many."""
        if self.viewers >= self.device.settings.viewers:
            raise RateLimited(
                f"{self.viewers} look on already, as many as may",
                hint="close another tab; setting `viewers` is the limit",
                found=self.viewers,
            )
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        if self.listeners >= MOST_LISTENERS:
            raise RateLimited(
                f"{self.listeners} listen already, as many as may", hint="close another tab"
            )
        self.listeners += 1
        try:
            yield
        finally:
            self.listeners -= 1

    @asynccontextmanager
    async def bell(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something was published."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def ring() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(rung.set)

        end = self.device.events.subscribe(ring)
        try:
            yield rung
        finally:
            end()

    async def holds(self, websocket_or_request: Any) -> bool:
        """Whether who looks on may still do so."""
        grant: Grant | None = websocket_or_request.scope["state"]["grant"]
        if grant is None:
            return False
        present = await to_thread.run_sync(self.access.all)
        return any(other.id == grant.id for other in present)


def visible(event: Event, grant: Grant | None) -> bool:
    """Who has access is for owners to see."""
    return event.type != ACCESS or (grant is not None and grant.may("owner"))


def _jpeg(frame: Frame) -> bytes:
    from accrue.service.box import thumbnail

    return thumbnail(frame.image, LONGEST_PX)


class _Gone(Exception):
    """The token was taken back."""


class Tab:
    """One WebSocket."""

    def __init__(self, hub: Hub, socket: WebSocket) -> None:
        self._hub, self._socket = hub, socket
        self._grant: Grant | None = socket.scope["state"]["grant"]
        self._sending = asyncio.Lock()
        self._camera: int | None = None
        self._pause_s = 1 / DEFAULT_FPS
        self._changed = asyncio.Event()  # what to show, or whether the last was shown
        self._resumed = asyncio.Event()
        self._ready = True
        self._after = hub.device.events.last
        self._go_on: int | None = None  # after which event the tab wants to go on

    async def run(self) -> None:
        events = self._hub.device.events
        await self._tell({"type": "hello", "id": events.last, "viewers": self._hub.viewers})
        tasks = [asyncio.ensure_future(part()) for part in (self._hear, self._news, self._show)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except _Gone:
            await self._socket.close(TOKEN_GONE, "access was revoked")
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._socket.send_text(json.dumps(plain(message), ensure_ascii=False))

    async def _hear(self) -> None:
        """What the tab says: which camera to show, that it is ready, from where to go on."""
        while True:
            text = await self._socket.receive_text()
            try:
                self._take(text)
            except (UsageError, NotFound) as error:
                await self._tell({"type": "error", "problem": document(error)})

    def _take(self, text: str) -> None:
        try:
            said = json.loads(text) if len(text) <= MESSAGE_BYTES else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise UsageError("a message that is no JSON object", hint='as in {"watch": 0}')
        if "watch" in said:
            camera = said["watch"]
            if camera is not None and (isinstance(camera, bool) or not isinstance(camera, int)):
                raise UsageError("`watch` is the number of a camera, or null")
            if camera is not None:
                self._hub.device.frame(camera)  # raises NotFound
            self._camera, self._ready = camera, True
        fps = said.get("fps")
        if fps is not None:
            if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
                raise UsageError("`fps` is a number above 0", expected=MOST_FPS)
            self._pause_s = 1 / min(float(fps), MOST_FPS)
        if said.get("ready"):
            self._ready = True
        after = said.get("after")
        if after is not None:
            if isinstance(after, bool) or not isinstance(after, int):
                raise UsageError("`after` is the id of an event")
            self._go_on = after
            self._resumed.set()
        self._changed.set()

    async def _news(self) -> None:
        events = self._hub.device.events
        checked = time.monotonic()
        async with self._hub.bell() as rung:
            while True:
                rung.clear()
                self._resumed.clear()
                if self._go_on is not None:
                    self._after, self._go_on = self._go_on, None
                if events.missed(self._after):
                    await self._tell({"type": "gap", "id": events.last})
                    self._after = events.last
                for event in events.since(self._after):
                    self._after = event.id
                    if self._go_on is not None:
                        break
                    if event.type == ACCESS:
                        checked = 0.0
                    if visible(event, self._grant):
                        await self._tell(event.document())
                if time.monotonic() - checked >= CHECK_S:
                    if not await self._hub.holds(self._socket):
                        raise _Gone
                    checked = time.monotonic()
                waits = [asyncio.ensure_future(e.wait()) for e in (rung, self._resumed)]
                try:
                    await asyncio.wait(waits, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()

    async def _show(self) -> None:
        """Frames, each only after the one before was shown."""
        while True:
            if self._camera is None:
                await self._changed.wait()
                self._changed.clear()
                continue
            try:
                async with self._hub.viewing():
                    await self._show_one_camera()
            except RateLimited as error:
                await self._tell({"type": "error", "problem": document(error)})
                self._camera = None

    async def _show_one_camera(self) -> None:
        shown, camera = 0.0, self._camera
        while self._camera is not None:
            if self._camera != camera:
                shown, camera = 0.0, self._camera
            if not self._ready:
                self._changed.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1.0)
                continue
            started = time.monotonic()
            found = await self._hub.picture(camera, shown)
            if found is not None:
                shown = found.at
                self._ready = False
                async with self._sending:
                    await self._socket.send_bytes(bytes([camera & 0xFF]) + found.jpeg)
            left = self._pause_s - (time.monotonic() - started)
            await asyncio.sleep(max(left, 0.005))


def add_live(table: Table, hub: Hub) -> None:
    """Adds what goes on and on to the table."""

    @table.add("WS", "/live", VIEWER)
    async def live(socket: WebSocket) -> None:
        """Events as JSON texts, and frames of one camera as binary messages.

        The tab says `{"watch": CAMERA or null, "fps": 8}`, `{"ready": true}` after each frame that
        it has shown (before that it gets no other), and `{"after": EVENT}` to go on after an
        event that it has seen. A frame is one byte, the camera, and a JPEG of at most 640 px. A
        text of type `hello` comes first, with the id of the newest event; one of type `gap` says
        that events were missed, so that lists have to be read again; one of type `error` has a
        problem.
        """
        try:
            require(VIEWER, socket.scope["state"]["grant"])
        except Exception:
            await socket.close(4401)
            return
        await socket.accept()
        try:
            async with hub.listening():
                await Tab(hub, socket).run()
        except RateLimited as error:
            await socket.close(TRY_LATER, error.message)

    @table.add("GET", "/events", VIEWER, media="text/event-stream")
    async def events(request: Request) -> Response:
        """Events as a stream (server-sent events), from the header `Last-Event-ID` on.

        Without that header, from now on. An event of type `gap` says that some were missed.
        """
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdigit() else hub.device.events.last
        grant = request.scope["state"]["grant"]
        if hub.listeners >= MOST_LISTENERS:
            async with hub.listening():
                pass

        async def lines() -> AsyncIterator[str]:
            nonlocal after
            events = hub.device.events
            async with hub.listening(), hub.bell() as rung:
                yield ": accrue\n\n"
                while await hub.holds(request):
                    rung.clear()
                    if events.missed(after):
                        after = events.last
                        yield f"event: gap\nid: {after}\ndata: {{}}\n\n"
                    for event in events.since(after):
                        after = event.id
                        if visible(event, grant):
                            data = json.dumps(plain(event.document()), ensure_ascii=False)
                            yield f"event: {event.type}\nid: {event.id}\ndata: {data}\n\n"
                    try:
                        await asyncio.wait_for(rung.wait(), KEEP_ALIVE_S)
                    except asyncio.TimeoutError:
                        yield ": still here\n\n"

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(lines(), 200, headers, "text/event-stream")

    @table.add("GET", "/cameras/{n:int}/snapshot.jpg", VIEWER, media="image/jpeg")
    async def snapshot(request: Request) -> Response:
        """The newest frame, as JPEG of at most 640 px."""
        found = await hub.picture(request.path_params["n"])
        if found is None:
            raise SourceError(
                "this camera has given no frame yet", hint="see `GET /api/v1/cameras`"
            )
        headers = {"cache-control": "no-store", "x-frame-at": f"{found.at:.3f}"}
        return Response(found.jpeg, 200, headers, "image/jpeg")

    @table.add("GET", "/cameras/{n:int}/mjpeg", VIEWER, media="multipart/x-mixed-replace")
    async def mjpeg(request: Request) -> Response:
        """Frames one after the other, as an `<img>` shows them; at most 8 a second."""
        camera = request.path_params["n"]
        hub.device.frame(camera)
        if hub.viewers >= hub.device.settings.viewers:
            async with hub.viewing():
                pass

        async def parts() -> AsyncIterator[bytes]:
            shown, checked = 0.0, time.monotonic()
            async with hub.viewing():
                while True:
                    if time.monotonic() - checked >= CHECK_S:
                        if not await hub.holds(request):
                            return
                        checked = time.monotonic()
                    found = await hub.picture(camera, shown)
                    if found is not None:
                        shown = found.at
                        head = (
                            f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                            f"Content-Length: {len(found.jpeg)}\r\n\r\n"
                        )
                        yield head.encode() + found.jpeg + b"\r\n"
                    await asyncio.sleep(1 / DEFAULT_FPS)

        media = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return StreamingResponse(parts(), 200, {"cache-control": "no-store"}, media)
