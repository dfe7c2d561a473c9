"""`accrue run`, `accrue pair` and `accrue access`: the device as a service, and who may come in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accrue.cli.ask import HeadName, Reject
from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, say, table, when
from accrue.cli.session import settings_of
from accrue.errors import AccrueError

if TYPE_CHECKING:
    from accrue.service.access import Access
    from accrue.service.http.server import Place
    from accrue.service.settings import Origin, Settings

NEEDED = (
    *("starlette", "uvicorn", "jinja2", "websockets", "python_multipart", "segno"),
    "cryptography",
)
FIRST_CODE_S = 900
THUMBNAILS_PX = 160  # of shots, where the setting is not given: the console shows them

access_app = typer.Typer(help="Who may reach this device over HTTP.", no_args_is_help=True)


class Role(Enum):
    """What somebody may do."""

    viewer = "viewer"
    operator = "operator"
    owner = "owner"


AsRole = Annotated[Role, typer.Option("--role", help="viewer, operator (teaches) or owner.")]


def run(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CAMERA...]", help="As for `accrue watch`; else setting `cameras`."
        ),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="ADDRESS:PORT", help="Where the HTTP server listens.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Beyond loopback without HTTPS, on purpose.")
    ] = False,
    head: HeadName = None,
    reject: Reject = None,
) -> None:
    """Run the device: watch, answer, learn when asked, and show itself in a browser."""
    settings, origins = settings_of(context, listen=listen, head=head, reject=reject)
    if origins["thumbnails"].text == "default":
        settings = replace(settings, thumbnails=THUMBNAILS_PX)
    serve(settings, origins, sources or settings.cameras, plain=plain_http)


def serve(
    settings: Settings, origins: dict[str, Origin], cameras: Sequence[str], *, plain: bool = False
) -> None:
    """Runs a device and its server until it is told to stop.

    Raises:
        AccrueError: packages are missing, or what the device, the state and the port raise.
    """
    _require_packages()
    from accrue.board import which
    from accrue.service.access import OWNER, Access
    from accrue.service.console import console_routes
    from accrue.service.daemon import ENROLMENT, Device
    from accrue.service.heap import few_heaps
    from accrue.service.http.replies import Replies
    from accrue.service.http.server import Service, write_address
    from accrue.service.logs import set_up
    from accrue.service.notify import Notifier
    from accrue.service.outputs import Outputs
    from accrue.service.panel import Panel

    set_up(settings.log)
    few_heaps()
    notifier = Notifier()
    with ExitStack() as parts:
        told = {name: found.text for name, found in origins.items()}
        device = Device(settings, cameras=cameras, alive=notifier.alive, origins=told)
        access = parts.enter_context(Access(settings.state))
        replies = parts.enter_context(closing(Replies(settings.state)))

        def started() -> None:
            write_address(settings.state, service.place)
            notifier.ready(f"{count(len(cameras), 'camera')}, {service.place.url}")
            panel.start()

        pages = console_routes(device, access, replies)
        service = Service(device, access, plain=plain, replies=replies, started=started, more=pages)
        parts.callback(service.socket.close)
        parts.callback(device.stop)
        device.start()
        given = os.environ.get("CREDENTIALS_DIRECTORY")  # by systemd, for LoadCredential=
        if given:
            device.enrol(Path(given) / ENROLMENT)
        outputs = Outputs(device)
        parts.callback(outputs.close)
        here = which(settings.board).board if settings.panel is not None else None
        led = "" if here is None else here.sensors.led
        panel = Panel(device, access, lambda: service.place, notifier, settings.panel, led)
        parts.callback(panel.close)
        parts.callback(notifier.stopping)
        first = service.place.is_loopback or not access.owned
        code = access.invite(OWNER, by="accrue run", seconds=FIRST_CODE_S) if first else None
        _greet(service.place, access, settings, len(cameras), None if code is None else code.code)
        service.serve_until_told()


def _greet(
    place: Place, access: Access, settings: Settings, cameras: int, code: str | None
) -> None:
    if settings.fleet_owner is not None:
        note(f"accrue: decides for a fleet, with the owner's key in {settings.fleet_owner}")
    elif not cameras:
        note("accrue: no camera; name one: accrue run camera:0, or the setting `cameras`")
    say(f"accrue: watching {count(cameras, 'camera')}; {place.url}")
    if code is not None:
        say(f"accrue: open {place.url}/#pair={code} (one use, {FIRST_CODE_S // 60} minutes)")
    else:
        say("accrue: to let a browser in: accrue pair")
    if place.identity is None and not place.is_loopback:
        note("accrue: PLAIN HTTP: whoever is on this network can read along, tokens too")
    elif place.identity is not None and place.identity.authority is not None:
        note(f"accrue: phones warn until they trust {place.url}/ca.crt; see docs/security.md")
    sys.stdout.flush()


def pair(
    context: typer.Context,
    role: AsRole = Role.operator,
    as_json: Json = False,
) -> None:
    """Make a code that lets one browser in, for five minutes, with its QR picture."""
    _require_packages()
    import segno

    from accrue.service.access import Access
    from accrue.service.http.server import read_address

    settings, _ = settings_of(context)
    with Access(settings.state) as access:
        code = access.invite(role.value, by=settings.actor)
    base = read_address(settings.state)
    url = f"{base}/#pair={code.code}" if base else ""
    if as_json:
        emit({"code": code.code, "role": code.role, "url": url or None, "expires": code.expires})
        return
    say(f"{code.code}\t{role.value}\tuntil {when(code.expires)}")
    if not base:
        note("accrue: no device has run on this state folder yet: accrue run")
        return
    say(url)
    if sys.stdout.isatty():
        segno.make(url, error="m", micro=False).terminal(compact=True)


@access_app.command("list")
def list_access(context: typer.Context, as_json: Json = False) -> None:
    """List who may come in."""
    from accrue.service.access import Access

    settings, _ = settings_of(context)
    with Access(settings.state) as access:
        found = access.all()
    if as_json:
        emit({"access": [asdict(grant) for grant in found]})
    elif not found:
        note("nobody may come in yet; let a browser in: accrue pair")
    else:
        table(
            ["id", "name", "role", "since", "by", "last seen"],
            [
                (
                    grant.id,
                    grant.name,
                    grant.role,
                    when(grant.made),
                    grant.made_by,
                    "-" if grant.seen is None else when(grant.seen),
                )
                for grant in found
            ],
        )


@access_app.command("add")
def add_access(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of a program; it goes into the journal.")
    ],
    role: AsRole = Role.viewer,
    as_json: Json = False,
) -> None:
    """Make a token for a program. It is shown once."""
    from accrue.service.access import Access

    settings, _ = settings_of(context)
    with Access(settings.state) as access:
        grant, token = access.add(name, role.value, by=settings.actor)
    if as_json:
        emit({"access": asdict(grant), "token": token})
    else:
        say(token)
        note(f"accrue: {grant.name} is {grant.role} (access {grant.id}); this is shown once")


@access_app.command("revoke")
def revoke_access(
    context: typer.Context,
    access: Annotated[str, typer.Argument(metavar="ID", help="From `accrue access list`.")],
    as_json: Json = False,
) -> None:
    """Take access back, at once, also while the device runs."""
    from accrue.service.access import Access

    settings, _ = settings_of(context)
    with Access(settings.state) as known:
        grant = known.revoke(access)
    if as_json:
        emit({"access": asdict(grant)})
    else:
        say(f"{grant.name} may not come in any more")


def _require_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise AccrueError(
            f"the HTTP server needs packages that are missing: {', '.join(missing)}",
            hint="pip install 'accrue[console]'",
            found=", ".join(missing),
        )
