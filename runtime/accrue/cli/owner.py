"""`accrue-fleet`: what the owner of a fleet does. docs/fleet.md walks through it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue import __version__
from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, progress, say, show_difference, table, when
from accrue.cli.run import run
from accrue.errors import Conflict, NotFound, Rejected, UsageError

if TYPE_CHECKING:
    from accrue.sync.broker import BrokerFolder
    from accrue.sync.contribution import Scope
    from accrue.sync.difference import Difference
    from accrue.sync.enrol import Applicant
    from accrue.sync.owner import Joined, OwnerLine
    from accrue.sync.report import Report, SetReport
    from accrue.sync.topics import Role
    from accrue.sync.workspace import Invite, Proposal, Step, Workspace

PROGRAM = "accrue-fleet"
VALUES, SWITCHES = ("--fleet",), ("--offline",)
BROKER_FOLDER = "broker"
OWNER_USER = "owner"
GRACE_HOURS = 168
EPILOG = (
    "Exit codes as of `accrue`. --fleet and --offline may stand anywhere in the line. Every step "
    "is in `accrue-fleet log` and can be taken back with `accrue-fleet undo`."
)

app = typer.Typer(
    name=PROGRAM,
    help="Own a fleet: who belongs to it, and which class sets are in force.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
roster_app = typer.Typer(help="Who belongs to the fleet.", no_args_is_help=True)
app.add_typer(roster_app, name="roster")

Set = Annotated[
    str | None, typer.Option("--set", metavar="SET", help="Class set, where there are several.")
]
Space = Annotated[
    str | None,
    typer.Option("--space", metavar="HEX", help="First characters of its space, likewise."),
]
Remark = Annotated[str, typer.Option("--remark", metavar="TEXT", help="What devices are told.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with the manifest.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or id of a device.")]
Proposals = Annotated[
    list[int], typer.Argument(metavar="N...", help="Numbers from `accrue-fleet propose`.")
]


def default_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / PROGRAM


def _version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    fleet: Annotated[
        str | None, typer.Option(metavar="DIR", help="The owner's folder (ACCRUE_FLEET).")
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Do not go to the broker; the next command does."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    chosen = fleet or os.environ.get("ACCRUE_FLEET")
    context.obj = {
        "folder": Path(chosen).expanduser() if chosen else default_folder(),
        "offline": offline,
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    run(app, PROGRAM, arguments, VALUES, SWITCHES)


# ---- sessions -----------------------------------------------------------------------------------


@contextmanager
def _workspace(context: typer.Context) -> Iterator[Workspace]:
    from accrue.sync.workspace import Workspace

    with Workspace.open(context.find_root().obj["folder"]) as found:
        yield found


@contextmanager
def _visit(
    context: typer.Context, *, contributions: bool = False
) -> Iterator[tuple[Workspace, OwnerLine | None]]:
    """The owner's folder and, unless --offline, the broker: what it retains is read before, and
    what was signed is published after."""
    from accrue.sync.owner import OwnerLine

    with _workspace(context) as workspace:
        if context.find_root().obj["offline"]:
            yield workspace, None
            _match_accounts(workspace)
            note(f"{PROGRAM}: offline; the next command without --offline tells the broker")
            return
        with progress() as update, OwnerLine(workspace, progress=update) as line:
            found = line.collect(contributions=contributions)
            if found.refused:
                said = ", ".join(f"{n} {reason}" for reason, n in sorted(found.refused.items()))
                note(f"{PROGRAM}: refused from the broker: {said}")
            if found.missing:
                note(f"{PROGRAM}: {count(found.missing, 'part')} not on the broker yet")
            yield workspace, line
            _match_accounts(workspace)
            line.publish()


def _broker_files(workspace: Workspace) -> BrokerFolder | None:
    """The broker's folder, where this machine has it."""
    from accrue.sync.broker import BrokerFolder

    files = BrokerFolder(workspace.folder / BROKER_FOLDER)
    return files if files.accounts_file.exists() else None


def _match_accounts(workspace: Workspace) -> None:
    """Closes the accounts of devices that are out, and opens those of devices that are back."""
    from accrue.sync.reload import match_accounts, reload_broker

    files = _broker_files(workspace)
    if files is not None and match_accounts(workspace, files) and not reload_broker(files):
        _reload_hint(files)


def _stepped(step: Step, as_json: bool, **more: Any) -> None:
    if as_json:
        emit({"step": asdict(step), **more})
    elif step.subject is None:
        say(step.summary)
    else:
        say(f"{step.summary} (step {step.seq}; take it back with `{PROGRAM} undo {step.seq}`)")


# ---- the fleet and its broker -------------------------------------------------------------------


@app.command()
def init(
    context: typer.Context,
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="Its id: a-z, 0-9 and -.")],
    as_json: Json = False,
) -> None:
    """Make a fleet: its key, and an empty roster."""
    from accrue.sync.identity import fingerprint
    from accrue.sync.workspace import KEY, Workspace

    folder = context.find_root().obj["folder"]
    with Workspace.create(folder, fleet) as found:
        if as_json:
            emit(
                {
                    "fleet": found.fleet,
                    "folder": str(folder),
                    "fingerprint": fingerprint(found.public),
                }
            )
            return
        say(f"made fleet {fleet} in {folder} (owner {fingerprint(found.public)})")
        note(f"keep a copy of {folder / KEY}: without it nothing can be signed any more")
        note(f"next: {PROGRAM} broker --host NAME")


@app.command()
def broker(
    context: typer.Context,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="Name or address of the broker; repeat it."),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Its port.")] = 8883,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="Listen there only; else everywhere.")
    ] = "",
    max_packet: Annotated[
        int, typer.Option("--max-packet", metavar="BYTES", help="Largest MQTT packet.")
    ] = 2_000_000,
    installed_at: Annotated[
        Path | None,
        typer.Option("--installed-at", metavar="DIR", help="Where the folder will be copied to."),
    ] = None,
    run_as: Annotated[
        str, typer.Option("--run-as", metavar="USER", help="Whom Mosquitto runs as.")
    ] = "",
    external: Annotated[
        bool,
        typer.Option("--external", help="Only note a broker that somebody else set up."),
    ] = False,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="The owner's account there.")
    ] = OWNER_USER,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Its password; else it is asked for."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="Its CA certificate, in PEM.")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="Encrypt the connection (default).")
    ] = True,
    relay: Annotated[
        bool, typer.Option("--relay", help="Also an account for `accrue fleet relay`.")
    ] = False,
    home_assistant: Annotated[
        str,
        typer.Option(
            "--home-assistant",
            metavar="PREFIX",
            help="Let devices announce themselves there, and make an account for Home Assistant.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Write the configuration of a Mosquitto broker, or note one that is there."""
    from accrue.sync.broker import BrokerPlan, new_password, write_broker
    from accrue.sync.identity import Broker

    with _workspace(context) as workspace:
        if not host:
            raise UsageError(
                "no --host was given", hint="the name or address that devices reach the broker at"
            )
        if external:
            password = _secret("password", password_file)
            ca_text = ca.read_text() if ca else ""
            workspace.set_broker(Broker(host[0], port, tls, user, password, ca_text))
            _broker_said(workspace, None, as_json)
            return
        plan = BrokerPlan(
            workspace.fleet,
            tuple(host),
            port,
            bind,
            max_packet,
            installed_at=installed_at,
            run_as=run_as,
            tls=tls,
            home_assistant=home_assistant,
        )
        files = write_broker(workspace.folder / BROKER_FOLDER, plan)
        present = workspace.broker
        password = present.password if present and present.user == user else new_password()
        files.set_account(user, "owner", password)
        made = []
        if relay:
            made.append(_helper_account(workspace.folder, files, "relay", "relay"))
        if home_assistant:
            made.append(_helper_account(workspace.folder, files, "home-assistant", "home"))
        ca_text = files.ca.read_text() if tls else ""
        workspace.set_broker(Broker(host[0], port, tls, user, password, ca_text))
        _broker_said(workspace, files, as_json)
        for file in made:
            note(f"account {file.stem}, its password: {file}")


def _helper_account(folder: Path, files: BrokerFolder, user: str, role: Role) -> Path:
    """An account that is no device's, with its password in a file, which stays as it is."""
    from accrue.sync.broker import new_password, write_private
    from accrue.sync.identity import read_secret

    file = folder / f"{user}.password"
    if not file.exists():
        write_private(file, new_password() + "\n")
    files.set_account(user, role, read_secret(file.read_text, "password"))
    return file


def _broker_said(workspace: Workspace, files: BrokerFolder | None, as_json: bool) -> None:
    known = workspace.broker
    assert known is not None
    if as_json:
        emit(
            {
                "host": known.host,
                "port": known.port,
                "tls": known.tls,
                "user": known.user,
                "folder": str(files.path) if files else None,
                "configuration": str(files.configuration) if files else None,
            }
        )
        return
    say(f"the broker of fleet {workspace.fleet} is {known.host}:{known.port}")
    if files:
        note(f"run it: mosquitto -c {files.configuration}")
    note(f"next: {PROGRAM} roster invite NAME")


def _secret(what: str, file: Path | None) -> str:
    """From a file, else from the terminal without echo, else the first line of stdin."""
    import getpass

    from accrue.store.failures import translated
    from accrue.sync.identity import read_secret

    if file is not None:
        with translated(file):
            return read_secret(file.read_text, what)
    if sys.stdin.isatty():
        return read_secret(lambda: getpass.getpass(f"{what}: ", stream=sys.stderr), what)
    return read_secret(sys.stdin.readline, what)


# ---- roster -------------------------------------------------------------------------------------


@roster_app.command("show")
def roster_show(context: typer.Context, as_json: Json = False) -> None:
    """List the devices of the fleet."""
    from accrue.sync.identity import fingerprint

    with _workspace(context) as workspace:
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


@roster_app.command()
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

    with _workspace(context) as workspace:
        known = require_broker(workspace)
        made = workspace.invite(clean_device_name(name))
        code = spoken(workspace.fleet, made.code)
        port = "" if known.port == 8883 else f" --port {known.port}"
        tls = "" if known.tls else " --no-tls"
        typed = f"accrue fleet join {code} --broker {known.host}{port}{tls}"
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


@roster_app.command()
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
    from accrue.sync.identity import fingerprint

    joined: list[Joined] = []

    def told(one: Joined) -> None:
        joined.append(one)
        if not as_json:
            say(f"let {one.name} in: device {one.device}, key {fingerprint(one.key)}")
        if not one.reloaded:
            _reload_hint(files)

    with _visit(context) as (workspace, line):
        if line is None:
            raise UsageError(
                "devices are let in over the broker", hint="leave --offline out, or use roster add"
            )
        if not [i for i in workspace.invites() if i.device is None]:
            raise NotFound("no invitation is open", hint=f"make one: {PROGRAM} roster invite NAME")
        files = _broker_files(workspace)
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


def _reload_hint(files: BrokerFolder | None) -> None:
    if files is None:
        note(f"{PROGRAM}: add the account to your broker; its password was sent to the device")
    else:
        note(
            f"{PROGRAM}: the broker was not told; copy {files.path} to it if it is elsewhere, and "
            "reload it: sudo systemctl reload mosquitto"
        )


@roster_app.command()
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
    from accrue.sync.enrol import make_ticket
    from accrue.sync.identity import fingerprint, write_private
    from accrue.sync.owner import admit
    from accrue.sync.roster import KeyWindow, Member, clean_device_name

    applicant = _applicant(file)
    with _visit(context) as (workspace, _):
        called = clean_device_name(name or applicant.name or applicant.device)
        present = workspace.roster().devices.get(applicant.device)
        if present is not None and all(w.key != applicant.key for w in present.keys):
            raise Conflict(
                f"device {applicant.device} is in the roster with another key; nothing was changed",
                hint=f"take the old one out first: {PROGRAM} roster revoke {applicant.device}",
            )
        files = _broker_files(workspace)
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
            _reload_hint(files)
    _stepped(step, as_json, ticket=str(ticket), fingerprint=fingerprint(applicant.key))
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


@roster_app.command()
def revoke(context: typer.Context, device: Device, as_json: Json = False) -> None:
    """Take nothing from a device any more; what it said before stays."""
    with _visit(context) as (workspace, _):
        found = workspace.roster().find(device)
        member = workspace.roster().member(found)
        if member.revoked is not None:
            raise Conflict(f"device {member.name} ({found}) is revoked already")
        step = workspace.set_device(
            found,
            replace(member, revoked=workspace.tick()),
            "revoke",
            f"revoked {member.name} ({found})",
        )
    _stepped(step, as_json, device=found)


@roster_app.command()
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
    from accrue.sync.clock import COUNTER_BITS
    from accrue.sync.roster import rotated

    steps = []
    with _visit(context) as (workspace, _):
        only = None if device is None else workspace.roster().find(device)
        for found, said in _reports(workspace).items():
            if said is None or said.next_key is None or only not in (None, found):
                continue
            member = workspace.roster().member(found)
            if any(window.key == said.next_key.key for window in member.keys):
                continue
            until = workspace.tick() + (grace * 3_600_000 << COUNTER_BITS)
            steps.append(
                workspace.set_device(
                    found,
                    rotated(member, said.next_key.key, said.next_key.from_stamp, until),
                    "rotate",
                    f"gave {member.name} ({found}) its new key",
                )
            )
    if not steps:
        raise NotFound(
            "no device asks for a new key", hint="on the device: accrue fleet rotate, then sync"
        )
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
    else:
        for step in steps:
            _stepped(step, False)


@app.command("forget-device")
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
    from accrue.sync.curation import without_forgotten

    if clear and not yes:
        raise UsageError(
            "what the broker retains of the device would be deleted and cannot be had back",
            hint="add --yes, or leave --clear out",
        )
    with _visit(context, contributions=True) as (workspace, line):
        found = workspace.roster().find(device)
        member = workspace.roster().member(found)
        if member.forgotten is not None:
            raise Conflict(f"device {member.name} ({found}) is forgotten already")
        stamp = workspace.tick()
        step = workspace.set_device(
            found,
            replace(member, revoked=member.revoked or stamp, forgotten=stamp),
            "forget",
            f"forgot {member.name} ({found})",
        )
        published = without_forgotten(workspace)
        cleared = line.clear_device(found) if clear and line else 0
    _stepped(step, as_json, device=found, cleared=cleared, steps=[asdict(s) for s in published])
    if not as_json:
        for one in published:
            _stepped(one, False)


# ---- status -------------------------------------------------------------------------------------


def _reports(workspace: Workspace) -> dict[str, Report | None]:
    """Device -> its signed report, or None where it sent none that holds."""
    from accrue.sync.report import Report
    from accrue.sync.roster import RosterTrust

    trust = RosterTrust(workspace.roster())
    found: dict[str, Report | None] = dict.fromkeys(workspace.roster().devices)
    for device, (_, data) in workspace.reports().items():
        if data and device in found:
            with suppress(Rejected):
                found[device] = Report.open(data, trust, workspace.fleet, device)
    return found


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show each device: whether it is there, what it has, how far behind it is."""
    from accrue.sync.clock import stamp_ms
    from accrue.sync.presence import Presence

    with _visit(context, contributions=True) as (workspace, _):
        roster, reports = workspace.roster(), _reports(workspace)
        states = {
            device: Presence.from_bytes((state or "").encode())
            for device, (state, _) in workspace.reports().items()
        }
        rows = []
        for device, member in sorted(roster.devices.items(), key=lambda d: d[1].name):
            said, present = reports[device], states.get(device)
            rows.append(
                {
                    "device": device,
                    "name": member.name,
                    "state": "revoked"
                    if member.revoked is not None
                    else present.state
                    if present
                    else "never seen",
                    "version": said.agent if said else None,
                    "reported_at": stamp_ms(said.stamp) / 1000 if said else None,
                    "roster": said.roster if said else None,
                    "unsent": said.unsent if said else None,
                    "lag_ms": said.lag_ms if said else None,
                    "refused": dict(said.refused) if said else {},
                    "asks_for_key": bool(said and said.next_key and _is_new(member, said)),
                    "sets": [one.to_body() for one in said.sets] if said else [],
                }
            )
        sets = [_set_status(workspace, scope) for scope in workspace.scopes()]
        if as_json:
            emit(
                {
                    "fleet": workspace.fleet,
                    "roster": roster.version,
                    "devices": rows,
                    "sets": sets,
                }
            )
            return
        _show_status(workspace.fleet, roster.version, rows, sets)


def _is_new(member: Any, said: Report) -> bool:
    return said.next_key is not None and all(w.key != said.next_key.key for w in member.keys)


def _set_status(workspace: Workspace, scope: Scope) -> dict[str, Any]:
    from accrue.sync.curation import waiting

    head = workspace.head(scope)
    policy = workspace.roster().policy(scope.class_set)
    held = workspace.ledger(scope).summary()
    return {
        "set": scope.class_set,
        "space": scope.space,
        "dim": scope.dim,
        "policy": policy,
        "digest": held.digest,
        "classes": len(held.classes),
        "shots": held.shots,
        "manifest": head.stable.number if head and head.stable else None,
        "canary": {"percent": head.canary.percent, "manifest": head.canary.version.number}
        if head and head.canary
        else None,
        **(waiting(workspace, scope) if policy == "curated" else {}),
    }


def _show_status(
    fleet: str, version: int, rows: list[dict[str, Any]], sets: list[dict[str, Any]]
) -> None:
    def first(row: dict[str, Any], key: str) -> Any:
        return row["sets"][0][key] if row["sets"] else ""

    if not rows:
        note(f"no device yet; invite one: {PROGRAM} roster invite NAME")
    else:
        table(
            ["device", "name", "state", "classes", "shots", "digest", "manifest", "lag", "refused"],
            [
                (
                    row["device"],
                    row["name"],
                    row["state"],
                    first(row, "classes"),
                    first(row, "shots"),
                    str(first(row, "digest"))[:12],
                    _installed(row["sets"][0]) if row["sets"] else "",
                    "" if row["lag_ms"] is None else f"{row['lag_ms']:,} ms",
                    sum(row["refused"].values()),
                )
                for row in rows
            ],
        )
    for row in rows:
        if row["asks_for_key"]:
            note(f"{row['name']} asks for a new key: {PROGRAM} roster rotate {row['name']}")
        for one in row["sets"]:
            if one["refused"]:
                note(f"{row['name']} rolled manifest {one['wanted']} back: {one['refused']}")
    for one in sets:
        text = f"class set {one['set']} ({one['space'][:12]}): {one['policy']}, "
        text += f"{count(one['classes'], 'class', 'classes')}, {count(one['shots'], 'shot')}"
        if one["manifest"]:
            text += f", manifest {one['manifest']}"
        if one["canary"]:
            trial = one["canary"]
            text += f", manifest {trial['manifest']} on trial with {trial['percent']} %"
        if one.get("drafts"):
            text += f", {count(one['drafts'], 'draft')} to look at ({PROGRAM} propose)"
        if one.get("decided"):
            text += f", {one['decided']} decided ({PROGRAM} publish)"
        note(text)
    note(f"fleet {fleet}, roster {version}")


def _installed(one: dict[str, Any]) -> str:
    if one["wanted"] == one["manifest"]:
        return str(one["manifest"] or "")
    return f"{one['manifest']} (not {one['wanted']})"


# ---- curated sets -------------------------------------------------------------------------------


@app.command()
def policy(
    context: typer.Context,
    class_set: Annotated[str, typer.Argument(metavar="SET", help="Class set.")],
    open_or_curated: Annotated[str, typer.Argument(metavar="POLICY", help="open or curated.")],
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Say whether what is taught is live at once (open), or after you have published it."""
    from accrue.sync.curation import curate

    if open_or_curated not in ("open", "curated"):
        raise UsageError(
            f"policy {open_or_curated!r}; expected open or curated", found=open_or_curated
        )
    with _visit(context, contributions=True) as (workspace, _):
        if open_or_curated == "open":
            steps = [workspace.set_policy(class_set, "open")]
        else:
            scopes = [
                s
                for s in workspace.scopes()
                if s.class_set == class_set and s.space.startswith(space or "")
            ]
            steps = curate(workspace, class_set, scopes)
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
    else:
        for step in steps:
            _stepped(step, False)


@app.command()
def propose(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """Gather what devices have taught since the manifest in force, class by class."""
    from accrue.sync import curation

    with _visit(context, contributions=True) as (workspace, _):
        scope = workspace.scope(class_set, space)
        found = curation.propose(workspace, scope)
        told = [(one, curation.proposed_difference(workspace, one)) for one in found]
        names = {d: m.name for d, m in workspace.roster().devices.items()}
        if as_json:
            emit({"proposals": [_proposal(one, change) for one, change in told]})
        elif not told:
            note("nothing to look at: no device has taught anything since the last manifest")
        else:
            table(
                ["proposal", "class", "shots", "from", "look out"],
                [
                    (
                        one.id,
                        one.name,
                        _shots(change),
                        ", ".join(sorted({names.get(d, d) for d, _ in one.entries})),
                        _collisions(change),
                    )
                    for one, change in told
                ],
            )
            note(f"then: {PROGRAM} approve N... or {PROGRAM} deny N... --remark TEXT")


def _proposal(one: Proposal, change: Difference) -> dict[str, Any]:
    return {
        "id": one.id,
        "class": one.name,
        "class_id": one.class_id,
        "entries": [{"device": d, "revision": r} for d, r in one.entries],
        "status": one.status,
        "remark": one.remark,
        "at": one.at,
        "difference": asdict(change),
    }


def _shots(change: Difference) -> str:
    parts = []
    for one in change.added:
        parts.append(f"new, {one.shots_after}")
    for one in change.changed:
        parts.append(f"{one.shots_before} -> {one.shots_after}")
    for one in change.removed:
        parts.append(f"{one.shots_before} -> removed")
    return "; ".join(parts) or "the same"


def _collisions(change: Difference) -> str:
    told = []
    for one in change.collisions[:2]:
        if one.same_name:
            told.append(f"another class is called {one.second}")
        else:
            told.append(f"near to {one.second} ({one.cosine:.2f})")
    return "; ".join(told)


@app.command()
def approve(
    context: typer.Context, proposals: Proposals, remark: Remark = "", as_json: Json = False
) -> None:
    """Take proposals into the next manifest."""
    _decide(context, proposals, "approved", remark, as_json)


@app.command()
def deny(
    context: typer.Context, proposals: Proposals, remark: Remark = "", as_json: Json = False
) -> None:
    """Leave proposals out of the next manifest; the device that taught them drops them then."""
    _decide(context, proposals, "denied", remark, as_json)


def _decide(
    context: typer.Context, proposals: list[int], status: str, remark: str, as_json: bool
) -> None:
    from accrue.sync.manifest import clean_remark

    text = clean_remark(remark)
    with _workspace(context) as workspace, workspace.database.atomic():
        steps = [workspace.decide(number, status, text) for number in dict.fromkeys(proposals)]
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
    else:
        for step in steps:
            _stepped(step, False)
        note(f"nothing changes before: {PROGRAM} publish, or {PROGRAM} canary PERCENT")


@app.command()
def publish(
    context: typer.Context,
    text: Note = "",
    class_set: Set = None,
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Put what was decided in force on every device; after a canary, put that in force."""
    from accrue.sync import curation
    from accrue.sync.manifest import clean_remark

    with _visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.publish(workspace, scope, note=clean_remark(text))
    _stepped(step, as_json)


@app.command()
def canary(
    context: typer.Context,
    percent: Annotated[
        int, typer.Argument(min=0, max=100, metavar="PERCENT", help="Of the devices; 0 ends it.")
    ],
    text: Note = "",
    class_set: Set = None,
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Put what was decided in force on a share of the devices first."""
    from accrue.sync import curation
    from accrue.sync.manifest import clean_remark

    with _visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.publish(workspace, scope, percent=percent, note=clean_remark(text))
        head = workspace.head(scope)
        chosen = [
            member.name
            for device, member in workspace.roster().devices.items()
            if head and head.canary and head.canary.chooses(device)
        ]
    _stepped(step, as_json, devices=sorted(chosen))
    if not as_json and percent:
        note(f"on: {', '.join(sorted(chosen)) or 'no device; try a larger share'}")


@app.command()
def rollback(
    context: typer.Context,
    to: Annotated[
        int | None, typer.Option("--to", metavar="N", help="A manifest; else the one before.")
    ] = None,
    text: Note = "",
    class_set: Set = None,
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Put an earlier manifest in force again; during a canary, end that."""
    from accrue.sync import curation
    from accrue.sync.manifest import clean_remark

    with _visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.rollback(workspace, scope, to, clean_remark(text))
    _stepped(step, as_json)


@app.command()
def manifests(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """List the manifests of a class set."""
    with _workspace(context) as workspace:
        scope = workspace.scope(class_set, space)
        head = workspace.head(scope)
        stable = head.stable.number if head and head.stable else None
        trial = head.canary.version.number if head and head.canary else None
        found = []
        for number, at, text in workspace.numbers(scope):
            manifest = workspace.manifest(scope, workspace.version(scope, number))
            found.append(
                {
                    "number": number,
                    "at": at,
                    "note": text,
                    "classes": len(manifest.classes),
                    "previous": manifest.previous,
                    "in_force": number == stable,
                    "on_trial": number == trial,
                    "remarks": [asdict(remark) for remark in manifest.remarks],
                }
            )
        if as_json:
            emit({"set": scope.class_set, "space": scope.space, "manifests": found})
            return
        table(
            ["manifest", "when", "classes", "", "note"],
            [
                (
                    one["number"],
                    when(float(str(one["at"]))),
                    one["classes"],
                    "in force" if one["in_force"] else "on trial" if one["on_trial"] else "",
                    one["note"],
                )
                for one in found
            ],
        )


@app.command()
def diff(
    context: typer.Context,
    first: Annotated[
        int | None, typer.Option("--from", metavar="N", help="A manifest; else the one in force.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--to", metavar="N", help="A manifest; else what devices have taught since."),
    ] = None,
    class_set: Set = None,
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Show what is different: classes, shots, what may be confused, accuracy as reported."""
    from accrue.sync import curation

    with _visit(context, contributions=True) as (workspace, _):
        scope = workspace.scope(class_set, space)
        change = curation.compare(workspace, scope, first, last)
        accuracy = _accuracy(workspace, scope, last)
        if as_json:
            emit({"difference": asdict(change), "accuracy": accuracy})
            return
        show_difference(change)
        if accuracy["devices"]:
            note(
                f"accuracy on kept shots, as {count(accuracy['devices'], 'device')} reported: "
                f"{accuracy['before']:.1%} -> {accuracy['after']:.1%}"
            )


def _accuracy(workspace: Workspace, scope: Scope, number: int | None) -> dict[str, Any]:
    """Means over the devices that reported a manifest: (share before, share after)."""
    from accrue.sync.report import TEN_THOUSANDTHS

    head = workspace.head(scope)
    if number is None and head is not None:
        newest = head.canary.version if head.canary else head.stable
        number = newest.number if newest else None
    found: list[SetReport] = []
    for said in _reports(workspace).values():
        found += [
            one
            for one in (said.sets if said else ())
            if (one.class_set, one.space) == (scope.class_set, scope.space)
            and one.manifest == number
            and one.accuracy is not None
            and one.before is not None
        ]
    if not found:
        return {"manifest": number, "devices": 0, "before": None, "after": None}
    return {
        "manifest": number,
        "devices": len(found),
        "before": sum(one.before or 0 for one in found) / len(found) / TEN_THOUSANDTHS,
        "after": sum(one.accuracy or 0 for one in found) / len(found) / TEN_THOUSANDTHS,
    }


@app.command()
def coming(
    context: typer.Context,
    class_set: Annotated[str, typer.Argument(metavar="SET", help="Class set.")],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="BUNDLE", help="Encoder bundle that is coming."),
    ] = None,
    text: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="Where to get it, and when.")
    ] = "",
    clear: Annotated[bool, typer.Option("--clear", help="Take the announcement back.")] = False,
    as_json: Json = False,
) -> None:
    """Announce that a class set will be taught with another encoder too. Sends no encoder."""
    from accrue.bundle import Bundle
    from accrue.sync.content import sha256
    from accrue.sync.contribution import Scope
    from accrue.sync.manifest import Coming, clean_remark

    if (bundle is None) != clear:
        raise UsageError("name the encoder with --bundle, or take it back with --clear")
    said = clean_remark(text)
    with _visit(context) as (workspace, _):
        if bundle is None:
            step = workspace.set_coming(class_set, None, f"no other space is coming to {class_set}")
        else:
            opened = Bundle.open(bundle)
            manifest = opened.manifest
            Scope(workspace.fleet, class_set, manifest.space_id, manifest.dim)
            announced = Coming(
                workspace.fleet,
                class_set,
                manifest.space_id,
                manifest.dim,
                sha256((opened.path / "manifest.json").read_bytes()),
                said,
                workspace.tick(),
            )
            step = workspace.set_coming(
                class_set,
                announced.sealed(workspace.key),
                f"space {manifest.space_id[:12]} is coming to {class_set}",
            )
    _stepped(step, as_json)


# ---- the log ------------------------------------------------------------------------------------


@app.command()
def log(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(min=1, max=2**31, metavar="N", help="Newest steps to show.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List every step that was taken, newest first."""
    with _workspace(context) as workspace:
        steps = workspace.log(limit)
        if as_json:
            emit({"steps": [asdict(step) for step in steps]})
            return
        table(
            ["step", "when", "what", ""],
            [
                (
                    step.seq,
                    when(step.at),
                    step.summary,
                    f"undone by {step.undone_by}" if step.undone_by else "",
                )
                for step in steps
            ],
        )


@app.command()
def undo(
    context: typer.Context,
    step: Annotated[
        int | None,
        typer.Argument(metavar="[STEP]", help="From `accrue-fleet log`; else the newest."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a step back. Undoing an undo is a redo."""
    with _visit(context) as (workspace, _):
        done = workspace.undo(step)
    _stepped(done, as_json)


if __name__ == "__main__":
    main()
