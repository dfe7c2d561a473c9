"""What the commands of `accrue-fleet` share: the owner's folder, and a visit at the broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from accrue.cli.output import count, emit, note, progress, say
from accrue.errors import Rejected

if TYPE_CHECKING:
    from accrue.sync.broker import BrokerFolder
    from accrue.sync.owner import OwnerLine
    from accrue.sync.report import Report
    from accrue.sync.workspace import Step, Workspace

PROGRAM = "accrue-fleet"
BROKER_FOLDER = "broker"


@contextmanager
def opened(context: typer.Context) -> Iterator[Workspace]:
    from accrue.sync.workspace import Workspace

    with Workspace.open(context.find_root().obj["folder"]) as found:
        yield found


@contextmanager
def visit(
    context: typer.Context, *, contributions: bool = False
) -> Iterator[tuple[Workspace, OwnerLine | None]]:
    """The owner's folder and, unless --offline, the broker: what it retains is read before, and
    what was signed is published after."""
    from accrue.sync.owner import OwnerLine

    with opened(context) as workspace:
        if context.find_root().obj["offline"]:
            yield workspace, None
            match_accounts(workspace)
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
            match_accounts(workspace)
            line.publish()


def broker_files(workspace: Workspace) -> BrokerFolder | None:
    """The broker's folder, where this machine has it."""
    from accrue.sync.broker import BrokerFolder

    files = BrokerFolder(workspace.folder / BROKER_FOLDER)
    return files if files.accounts_file.exists() else None


def match_accounts(workspace: Workspace) -> None:
    """Closes the accounts of devices that are out, and opens those of devices that are back."""
    from accrue.sync import reload

    files = broker_files(workspace)
    if (
        files is not None
        and reload.match_accounts(workspace, files)
        and not reload.reload_broker(files)
    ):
        reload_hint(files)


def stepped(step: Step, as_json: bool, **more: Any) -> None:
    if as_json:
        emit({"step": asdict(step), **more})
    elif step.subject is None:
        say(step.summary)
    else:
        say(f"{step.summary} (step {step.seq}; take it back with `{PROGRAM} undo {step.seq}`)")


def reload_hint(files: BrokerFolder | None) -> None:
    if files is None:
        note(f"{PROGRAM}: add the account to your broker; its password was sent to the device")
    else:
        note(
            f"{PROGRAM}: the broker was not told; copy {files.path} to it if it is elsewhere, and "
            "reload it: sudo systemctl reload mosquitto"
        )


def reports(workspace: Workspace) -> dict[str, Report | None]:
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
