"""What the commands of `accrue-fleet` share: the owner's folder, and a visit at the broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from accrue.cli.output import emit, note, progress, say

if TYPE_CHECKING:
    from accrue.service.governance import Governance
    from accrue.service.standing import StepTaken
    from accrue.sync.broker import BrokerFolder
    from accrue.sync.owner import OwnerLine
    from accrue.sync.workspace import Step, Workspace

PROGRAM = "accrue-fleet"


def actor() -> str:
    """Who is written into the log, as for `accrue`."""
    from accrue.service.settings import default_actor

    return os.environ.get("ACCRUE_ACTOR") or default_actor()


def folder_alone(context: typer.Context) -> Governance:
    """The verbs that need no broker."""
    from accrue.service.governance import Governance

    return Governance(context.find_root().obj["folder"], actor=actor(), remark=_remark)


@contextmanager
def governing(context: typer.Context) -> Iterator[Governance]:
    """The verbs, with a bar on the terminal for what takes long."""
    from accrue.service.governance import Governance

    given = context.find_root().obj
    with progress() as update:
        yield Governance(
            given["folder"],
            actor=actor(),
            offline=given["offline"],
            remark=_remark,
            progress=update,
        )


@contextmanager
def opened(context: typer.Context) -> Iterator[Workspace]:
    with folder_alone(context).opened() as found:
        yield found


@contextmanager
def visit(context: typer.Context) -> Iterator[tuple[Workspace, OwnerLine | None]]:
    """The owner's folder and, unless --offline, the broker."""
    with governing(context) as owner, owner.visit() as found:
        yield found.workspace, found.line


def _remark(text: str) -> None:
    note(f"{PROGRAM}: {text}")


def stepped(step: Step | StepTaken, as_json: bool, **more: Any) -> None:
    if as_json:
        emit({"step": asdict(step), **more})
    elif step.subject is None:
        say(step.summary)
    else:
        say(f"{step.summary} (step {step.seq}; take it back with `{PROGRAM} undo {step.seq}`)")


def all_stepped(steps: list[StepTaken], as_json: bool) -> None:
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
    else:
        for step in steps:
            stepped(step, False)


def tell_to_reload(files: BrokerFolder | None) -> None:
    from accrue.service.governance import reload_hint

    _remark(reload_hint(files))
