"""`accrue history`, `undo`, `backup` and `restore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, say, table, when
from accrue.cli.session import open_box
from accrue.errors import UsageError


def history(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(min=1, max=2**31, metavar="N", help="Newest entries to show.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List what was changed, by whom and when, newest first."""
    with open_box(context) as box:
        entries = box.history(limit)
        if as_json:
            emit({"entries": [asdict(entry) for entry in entries]})
        elif not entries:
            note("nothing has been changed yet")
        else:
            table(
                ["entry", "when", "by", "what", ""],
                [
                    (
                        entry.seq,
                        when(entry.at),
                        entry.actor,
                        entry.summary,
                        f"undone by {entry.undone_by}" if entry.undone_by else "",
                    )
                    for entry in entries
                ],
            )


def undo(
    context: typer.Context,
    entry: Annotated[
        int | None,
        typer.Argument(
            metavar="ENTRY", help="Entry from `accrue history`; else the newest change."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a change back. Undoing an undo is a redo."""
    with open_box(context) as box:
        done = box.undo(entry)
        if as_json:
            emit({"entry": asdict(done)})
        else:
            say(f"{done.summary} (entry {done.seq})")


def backup(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="File to write; an existing one is replaced."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one more into this folder; instead of FILE."),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, max=10_000, help="With --folder: as many, without the oldest.")
    ] = 14,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails/--no-thumbnails", help="Include kept thumbnails.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write everything that was learned, and the journal, to one checksummed file."""
    if (file is None) == (folder is None):
        raise UsageError(
            "expected a file, or a folder", hint="accrue backup FILE, or accrue backup --folder DIR"
        )
    with open_box(context) as box:
        removed: tuple[Path, ...] = ()
        if folder is not None:
            if box.reading() is None:  # a timer does not fail on a device that is new
                if as_json:
                    emit({"file": None, "removed": []})
                else:
                    say("nothing to back up: nothing was taught yet")
                return
            rotated = box.backup_into(folder, keep=keep, thumbnails=thumbnails)
            file, info, removed = rotated.path, rotated.info, rotated.removed
        else:
            assert file is not None
            info = box.backup(file, thumbnails=thumbnails)
        if as_json:
            emit({"file": file, "removed": [str(one) for one in removed], **asdict(info)})
            return
        say(
            f"wrote {file}: {count(info.classes, 'class', 'classes')}, "
            f"{count(info.shots, 'shot')}, {count(info.entries, 'entry', 'entries')}"
        )
        for one in removed:
            note(f"removed {one}")


def restore(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `accrue backup` wrote.")
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Put it in the place of the classes that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a backup in place; the present database is set aside."""
    with open_box(context) as box:
        done = box.restore(file, replace=yes)
        if as_json:
            emit(
                {
                    "database": str(done.path),
                    "set_aside": str(done.aside) if done.aside else None,
                    **asdict(done.info),
                }
            )
            return
        say(
            f"restored {count(done.info.classes, 'class', 'classes')}, "
            f"{count(done.info.shots, 'shot')} from {file}"
        )
        if done.aside:
            note(f"the database that was there is kept as {done.aside}")
