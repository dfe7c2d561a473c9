"""`accrue set`: a class set as one file, to hand over without a network."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.classes import Force, Json
from accrue.cli.output import count, emit, note, say, show_difference, when
from accrue.cli.session import open_box
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.service.sets import Import

app = typer.Typer(help="Hand classes over as one file, without a network.", no_args_is_help=True)

SetFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A file that `accrue set export` wrote.")
]


@app.command("export")
def export(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write; an existing one is replaced.")
    ],
    as_json: Json = False,
) -> None:
    """Write all classes to one signed file. No image goes into it."""
    from accrue.service.sets import export_set

    with open_box(context) as box:
        done = export_set(box, file)
    if as_json:
        emit({**asdict(done), "file": str(file)})
    else:
        say(
            f"wrote {file}: {count(done.classes, 'class', 'classes')}, "
            f"{count(done.shots, 'shot')} from {count(done.devices, 'device')}, "
            f"{done.size:,} bytes"
        )


@app.command("diff")
def diff(context: typer.Context, file: SetFile, as_json: Json = False) -> None:
    """Show what taking a file over would change. Changes nothing."""
    from accrue.service.sets import look_at

    with open_box(context) as box:
        found = look_at(box, file)
    if as_json:
        emit(_import(found, taken=False))
    else:
        _show(found)


@app.command("import")
def import_(
    context: typer.Context,
    file: SetFile,
    only_diff: Annotated[bool, typer.Option("--diff", help="Only show what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Take it over without asking.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take a file over, after showing what changes."""
    from accrue.service.sets import import_set, look_at

    if only_diff and yes:
        raise UsageError("--diff and --yes exclude each other", hint="leave one of them out")
    with open_box(context) as box:
        if not yes:
            found = look_at(box, file)
            if not as_json:
                _show(found)
            if only_diff:
                if as_json:
                    emit(_import(found, taken=False))
                return
            if as_json or not sys.stdin.isatty():
                raise UsageError(
                    "nobody was there to ask; nothing was changed", hint="add --yes, or --diff"
                )
            typer.confirm("take it over?", abort=True, err=True)
        done = import_set(box, file, force=force)
    if as_json:
        emit(_import(done, taken=True))
        return
    change = done.difference
    say(
        f"took {file} over: {count(len(change.added), 'class', 'classes')} new, "
        f"{len(change.changed)} changed, {len(change.removed)} removed"
    )
    if done.entries:
        first, last = done.entries[0], done.entries[-1]
        which = f"entry {first}" if first == last else f"entries {first} to {last}, newest first"
        note(f"to take it back: accrue undo, {which}")


def _import(found: Import, *, taken: bool) -> dict[str, Any]:
    return {
        "taken": taken,
        "signer": found.signer,
        "fingerprint": found.fingerprint,
        "known": found.known or None,
        "fleet": found.fleet or None,
        "at": found.at_ms / 1000,
        "as_theirs": found.as_theirs,
        "difference": asdict(found.difference),
        "refused": dict(found.refused),
        "remarks": list(found.left_out),
        "accuracy": {
            "before": found.before.accuracy,
            "after": found.after.accuracy,
            "shots": found.after.shots,
        },
        "entries": list(found.entries) if taken else [],
    }


def _show(found: Import) -> None:
    of = f" of fleet {found.fleet}" if found.fleet else ""
    whose = f": {found.known}" if found.known else ", which nobody here knows"
    note(f"written {when(found.at_ms / 1000)} by device {found.signer}{of}")
    note(f"signed with key {found.fingerprint}{whose}")
    show_difference(found.difference)
    for reason, number in sorted(found.refused.items()):
        note(f"not taken: {count(number, 'contribution')}, {reason}")
    for text in found.left_out:
        note(text)
    if found.before.shots and found.after.shots:
        note(
            f"accuracy on {count(found.after.shots, 'kept shot')}: "
            f"{found.before.accuracy:.0%} before, {found.after.accuracy:.0%} after"
        )
