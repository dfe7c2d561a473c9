"""`accrue-fleet`: what the owner of a fleet does. docs/fleet.md walks through it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accrue import __version__
from accrue.cli import owner_console, owner_roster, owner_sets, owner_status
from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say, table, when
from accrue.cli.owner_session import PROGRAM, actor, folder_alone, governing, opened, stepped
from accrue.cli.run import run
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.sync.broker import BrokerFolder
    from accrue.sync.topics import Role
    from accrue.sync.workspace import Workspace

VALUES, SWITCHES = ("--fleet",), ("--offline",)
OWNER_USER = "owner"
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
app.add_typer(owner_roster.app, name="roster")


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
    with Workspace.create(folder, fleet, actor=actor()) as found:
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
    from accrue.service.governance import BROKER_FOLDER
    from accrue.sync.broker import BrokerPlan, new_password, write_broker
    from accrue.sync.identity import Broker

    with opened(context) as workspace:
        if not host:
            raise UsageError(
                "no --host was given",
                hint=f"the name or address that devices reach it at: {PROGRAM} broker --host NAME",
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
        if os.geteuid() == 0 and not run_as and not installed_at:
            note(
                "started by root, mosquitto becomes the user mosquitto, who may not read this "
                f"folder: {PROGRAM} broker --run-as root with the same options, or --installed-at"
            )
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


for command in (
    owner_status.status,
    owner_sets.policy,
    owner_sets.propose,
    owner_sets.approve,
    owner_sets.deny,
    owner_sets.publish,
    owner_sets.canary,
    owner_sets.rollback,
    owner_sets.manifests,
    owner_sets.diff,
    owner_sets.coming,
    owner_console.console,
):
    app.command()(command)
app.command("forget-device")(owner_roster.forget_device)


@app.command()
def log(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(min=1, max=2**31, metavar="N", help="Newest steps to show.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List every step that was taken, newest first."""
    steps = folder_alone(context).log(limit)
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
        return
    table(
        ["step", "when", "who", "what", ""],
        [
            (
                step.seq,
                when(step.at),
                step.actor,
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
    with governing(context) as owner:
        done = owner.undo(step)
    stepped(done, as_json)


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    run(app, PROGRAM, arguments, VALUES, SWITCHES)


if __name__ == "__main__":
    main()
