"""The server of `accrue run`: where it listens, how it is called, and its life."""

from __future__ import annotations

import ipaddress
import json
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from accrue.errors import AccrueError, Conflict, UsageError
from accrue.service.access import Access
from accrue.service.http.app import create_app
from accrue.service.http.patience import Patient
from accrue.service.http.replies import Replies
from accrue.service.http.tls import Identity, addresses, identity, ways_out
from accrue.service.settings import Settings, address
from accrue.store.files import write_atomically

if TYPE_CHECKING:
    from accrue.service.daemon import Device

ADDRESS_FILE = "run.json"
CA_PATH = "/ca.crt"
RENEW_EVERY_S = 24 * 3600.0
LOOK_EVERY_S = 5.0  # whether addresses have changed
BACKLOG = 128
log = logging.getLogger("accrue.server")


@dataclass(frozen=True)
class Place:
    """Where the device listens.

    Attributes:
        host, port: bound. url: for others. identity: of HTTPS; None: plain HTTP.
    """

    host: str
    port: int
    url: str
    identity: Identity | None

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Service(uvicorn.Server):
    """A server on a socket that is bound before anything else is begun.

    Args:
        plain: HTTP beyond loopback, too. started: called once it takes requests.
        replies, more: as of `create_app`.

    Raises:
        Conflict: the port is taken. UsageError: no such address.
    """

    def __init__(
        self,
        device: Device,
        access: Access,
        *,
        plain: bool = False,
        replies: Replies | None = None,
        started: Callable[[], object] = lambda: None,
        more: Sequence[BaseRoute] = (),
    ) -> None:
        settings = device.settings
        found = address(settings.listen)
        assert found is not None  # settings are checked
        self.socket = bound(*found)
        try:
            secure = not plain and not is_loopback(found[0])
            if settings.certificate is not None and not plain:
                secure = True
            own = identity(settings) if secure else None
            port = int(self.socket.getsockname()[1])
            self.place = Place(found[0], port, _url(settings, found[0], port, own), own)
            routes = [*_authority(own), *more]  # the console has an answer for every other path
            self.app = create_app(
                device,
                access=access,
                replies=replies,
                more=routes,
                public=lambda: self.place.url,
            )
        except BaseException:
            self.socket.close()
            raise
        self._device, self._started_up = device, started
        self._over = threading.Event()
        super().__init__(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                lifespan="on",
                http=Patient,
                ws="websockets-sansio",
                ws_max_size=1 << 16,
                ws_ping_interval=15,
                ws_ping_timeout=15,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=3,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=500,
                ssl_certfile=None if own is None else str(own.certificate),
                ssl_keyfile=None if own is None else str(own.key),
            )
        )

    def serve_until_told(self) -> None:
        """Runs until SIGINT or SIGTERM; then whoever called goes on, to put things in order."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # uvicorn hands them on once it has ended
        if not self.place.is_loopback:
            threading.Thread(target=self._keep_up, name="renew", daemon=True).start()
        try:
            self.run(sockets=[self.socket])
        finally:
            self._over.set()
            self.socket.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started_up()

    def _keep_up(self) -> None:
        """A device may run before its network does, move to another one, and run for longer than
        its certificate lasts."""
        here, renewed = addresses(), time.monotonic()
        while not self._over.wait(LOOK_EVERY_S):
            now = addresses()
            if now == here and time.monotonic() - renewed < RENEW_EVERY_S:
                continue
            here, renewed = now, time.monotonic()
            try:
                self._move()
            except (AccrueError, OSError) as error:
                log.error("the certificate cannot be renewed: %s", error)

    def _move(self) -> None:
        settings, place = self._device.settings, self.place
        if place.identity is not None:
            own = identity(settings)
            if isinstance(self.config.ssl, ssl.SSLContext):
                self.config.ssl.load_cert_chain(own.certificate, own.key)
        url = _url(settings, place.host, place.port, place.identity)
        if url != place.url:
            log.info("reached at %s from now on", url)
            self.place = replace(place, url=url)
            write_address(settings.state, self.place)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises Conflict, UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except socket.gaierror:
        raise UsageError(
            f"{host} is no address of this machine", hint="as in --listen 0.0.0.0:8420", found=host
        ) from None
    except PermissionError:
        raise UsageError(
            f"port {port} is for root alone", hint="choose one above 1023", found=port
        ) from None
    except OSError as error:
        raise Conflict(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="another `accrue run`? choose another port: --listen 127.0.0.1:8421",
            found=f"{host}:{port}",
        ) from None


def _url(settings: Settings, host: str, port: int, own: Identity | None) -> str:
    """What a person types: of all addresses, one that others reach."""
    scheme = "http" if own is None else "https"
    shown = host
    if not is_loopback(host):
        try:
            unspecified = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            unspecified = False
        if settings.hosts:
            shown = settings.hosts[0]
        elif unspecified:
            outside = [a for a in addresses() if not a.is_loopback and not a.is_link_local]
            ways = ways_out()  # before those of a cable or a bridge
            outside.sort(key=lambda one: (one not in ways, one.version, int(one)))
            shown = str(outside[0]) if outside else socket.gethostname()
    return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def _authority(own: Identity | None) -> list[BaseRoute]:
    """The authority's certificate, for phones to trust; open to all, it is no secret."""
    if own is None or own.authority is None:
        return []
    content = own.authority.read_bytes()

    def authority(_: Request) -> Response:
        headers = {"content-disposition": 'attachment; filename="accrue-ca.crt"'}
        return Response(content, 200, headers, "application/x-x509-ca-cert")

    return [Route(CA_PATH, authority)]


def write_address(state: Path, place: Place) -> None:
    """Leaves word where the device listens, for `accrue pair`."""
    text = json.dumps({"url": place.url, "loopback": place.is_loopback})
    write_atomically(state / ADDRESS_FILE, [text.encode()])


def read_address(state: Path) -> str:
    """Where a device of that state folder listens, or did; "" if it is not known."""
    try:
        found = json.loads((state / ADDRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    url = found.get("url") if isinstance(found, dict) else None
    return url if isinstance(url, str) else ""
