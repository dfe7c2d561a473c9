"""`accrue-fleet roster` and `forget-device`: who belongs to the fleet."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say, table
from accrue.cli.owner_session import (
    PROGRAM,
    all_stepped,
    governing,
    opened,
    stepped,
    tell_to_reload,
    visit,
)
from accrue.errors import Conflict, NotFound, UsageError

if TYPE_CHECKING:
    from accrue.service.standing import StepTaken
    from accrue.sync.enrol import Applicant
    from accrue.sync.owner import Joined
    from accrue.sync.workspace import Invite

GRACE_HOURS = 168
app = typer.Typer(help="Who belongs to the fleet.", no_args_is_help=True)
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or id of a device.")]


@app.command("show")
def roster_show(context: typer.Context, as_json: Json = False) -> None:
    """List the devices of the fleet."""
    from accrue.sync.identity import fingerprint

    with opened(context) as workspace:
        found = workspace.roster()
        if as_json:
            emit(
                {
                    "fleet": found.fleet,
                    "version": found.version,
                    "owner": found.owner.hex(),
                    "devices": [
                        {"device": d, "fingerprint": fingerprint(m.public), **m.to_body()}
                        for d, m in sorted(found.devices.items())
                    ],
                    "sets": dict(found.sets),
                    "invitations": [
                        {"name": i.name, "until": i.until, "used_by": i.device}
                        for i in workspace.invites()
                    ],
                }
            )
            return
        table(
            ["device", "name", "key", "keys", "role", ""],
            [
                (
                    device,
                    member.name,
                    fingerprint(member.public),
                    len(member.keys),
                    member.role,
                    "forgotten"
                    if member.forgotten is not None
                    else "revoked"
                    if member.revoked is not None
                    else "",
                )
                for device, member in sorted(found.devices.items(), key=lambda d: d[1].name)
            ],
        )
        note(f"roster {found.version} of fleet {found.fleet}")


@app.command()
def invite(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the device is to be called.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the device has joined, 15 minutes at most.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a code that lets one device in, within 15 minutes."""
    from accrue.sync.enrol import CODE_SECONDS, spoken
    from accrue.sync.owner import require_broker
    from accrue.sync.roster import clean_device_name

    with opened(context) as workspace:
        known = require_broker(workspace)
        made = workspace.invite(clean_device_name(name))
        for device, member in workspace.roster().devices.items():
            if member.name == made.name and member.revoked is None:
                note(f"{made.name} is in the roster already ({device}); if the code is not for it,")
                note(f"two will be called so: {PROGRAM} roster invite ANOTHER-NAME")
        code = spoken(workspace.fleet, made.code)
        port = "" if known.port == 8883 else f" --port {known.port}"
        tls = "" if known.tls else " --no-tls"
        typed = f"accrue fleet join CODE --broker {known.host}{port}{tls}"  # shown once, above
        if as_json and not wait:
            emit({"code": code, "name": made.name, "until": made.until, "join": typed})
        elif as_json:
            emit({"code": code, "name": made.name, "until": made.until, "join": typed}, indent=None)
        else:
            say(code)
            note(f"on the device, within {CODE_SECONDS // 60} minutes: {typed}")
            if not wait:
                note(f"and meanwhile here: {PROGRAM} roster accept")
    if wait:
        _accept(context, CODE_SECONDS, made, as_json)


@app.command()
def accept(
    context: typer.Context,
    seconds: Annotated[
        int, typer.Option("--for", min=1, max=86_400, metavar="SECONDS", help="How long.")
    ] = 900,
    as_json: Json = False,
) -> None:
    """Let the devices in that know a code; ends with the last open invitation."""
    _accept(context, seconds, None, as_json)


def _accept(context: typer.Context, seconds: int, only: Invite | None, as_json: bool) -> None:
    from accrue.service.governance import broker_files
    from accrue.sync.identity import fingerprint

    joined: list[Joined] = []

    def told(one: Joined) -> None:
        joined.append(one)
        if not as_json:
            say(f"let {one.name} in: device {one.device}, key {fingerprint(one.key)}")
        if not one.reloaded:
            tell_to_reload(files)

    with visit(context) as (workspace, line):
        if line is None:
            raise UsageError(
                "devices are let in over the broker", hint="leave --offline out, or use roster add"
            )
        if not [i for i in workspace.invites() if i.device is None]:
            raise NotFound("no invitation is open", hint=f"make one: {PROGRAM} roster invite NAME")
        files = broker_files(workspace)
        line.accept(
            files,
            seconds=seconds,
            only=only,
            told=told,
            refused=lambda text: note(f"{PROGRAM}: {text}"),
        )
    if as_json:
        emit(
            {
                "joined": [
                    {"device": j.device, "name": j.name, "fingerprint": fingerprint(j.key)}
                    for j in joined
                ]
            }
        )
    if not joined:
        raise NotFound("no device joined", hint=f"make a new code: {PROGRAM} roster invite NAME")


@app.command()
def add(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What `accrue fleet identity --json` printed."),
    ],
    ticket: Annotated[
        Path, typer.Option("--ticket", metavar="FILE", help="Ticket to write for the device.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What it is to be called.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a device in without a network: by its file, with a ticket to carry back."""
    from accrue.service.governance import broker_files
    from accrue.sync.enrol import make_ticket
    from accrue.sync.identity import fingerprint, write_private
    from accrue.sync.owner import admit
    from accrue.sync.roster import KeyWindow, Member, clean_device_name

    applicant = _applicant(file)
    with visit(context) as (workspace, _):
        called = clean_device_name(name or applicant.name or applicant.device)
        present = workspace.roster().devices.get(applicant.device)
        if present is not None and all(w.key != applicant.key for w in present.keys):
            raise Conflict(
                f"device {applicant.device} is in the roster with another key; nothing was changed",
                hint=f"take the old one out first: {PROGRAM} roster revoke {applicant.device}",
            )
        files = broker_files(workspace)
        admission, reloaded = admit(workspace, applicant.device, files)
        step = workspace.set_device(
            applicant.device,
            Member(called, (KeyWindow(applicant.key),)) if present is None else present,
            "add",
            f"added {called} ({applicant.device})",
        )
        admission = replace(admission, roster=workspace.roster().version)
        write_private(ticket, make_ticket(applicant, admission, workspace.key))
        if not reloaded:
            tell_to_reload(files)
    stepped(step, as_json, ticket=str(ticket), fingerprint=fingerprint(applicant.key))
    if not as_json:
        note(f"on the device: accrue fleet join --ticket {ticket.name}")


def _applicant(file: Path) -> Applicant:
    from accrue.sync.enrol import LARGEST_MESSAGE_BYTES, Applicant
    from accrue.sync.identity import read_file

    return Applicant.from_file(
        read_file(
            file,
            LARGEST_MESSAGE_BYTES,
            missing=f"no file {file}",
            hint="on the device: accrue fleet identity --json > FILE",
        )
    )


@app.command()
def revoke(context: typer.Context, device: Device, as_json: Json = False) -> None:
    """Take nothing from a device any more; what it said before stays."""
    with governing(context) as owner:
        step = owner.revoke(device)
    stepped(step, as_json, device=_of(step))


def _of(step: StepTaken) -> str:
    """The device that a step was about."""
    return (step.subject or "").partition("/")[2]


@app.command()
def rotate(
    context: typer.Context,
    device: Annotated[
        str | None,
        typer.Argument(metavar="[DEVICE]", help="Name or id; else every device that asks."),
    ] = None,
    grace: Annotated[
        int,
        typer.Option(
            "--grace",
            min=0,
            max=8760,
            metavar="HOURS",
            help="How long the old key is good; 0 where others may know it.",
        ),
    ] = GRACE_HOURS,
    as_json: Json = False,
) -> None:
    """Put the new keys that devices have asked for (`accrue fleet rotate`) into the roster."""
    with governing(context) as owner:
        steps = owner.rotate(device, grace)
    all_stepped(steps, as_json)


def forget_device(
    context: typer.Context,
    device: Device,
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Also delete what the broker retains of it, for good."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed with --clear.")] = False,
    as_json: Json = False,
) -> None:
    """Take all that a device ever said out of every device, and take nothing from it any more."""
    if clear and not yes:
        raise UsageError(
            "what the broker retains of the device would be deleted and cannot be had back",
            hint="add --yes, or leave --clear out",
        )
    with governing(context) as owner:
        step, published, cleared = owner.forget(device, clear=clear)
    said = [asdict(one) for one in published]
    stepped(step, as_json, device=_of(step), cleared=cleared, steps=said)
    if not as_json:
        for one in published:
            stepped(one, False)
