"""`accrue unknown`: what the cameras saw and nobody named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, say, table, when
from accrue.cli.session import open_box
from accrue.errors import NotFound, UsageError

app = typer.Typer(
    help="What `accrue watch` saw and nobody named: list, name, ignore.", no_args_is_help=True
)
Moments = Annotated[
    list[int], typer.Argument(metavar="MOMENT...", help="Numbers from `accrue unknown list`.")
]


@app.command("list")
def list_unknown(context: typer.Context, as_json: Json = False) -> None:
    """List what was not recognised, in groups that look alike; first what helps most."""
    with open_box(context) as box:
        groups = box.unknown()
        if as_json:
            emit({"groups": [asdict(group) for group in groups]})
        elif not groups:
            note("nothing waits to be named; `accrue watch CAMERA` collects what is not recognised")
        else:
            rows = [
                (
                    len(group.moments),
                    sum(moment.seen for moment in group.moments),
                    group.nearest,
                    group.moments[0].camera,
                    when(max(moment.last_at for moment in group.moments)),
                    " ".join(str(moment.id) for moment in group.moments),
                )
                for group in groups
            ]
            table(["moments", "frames", "nearest", "camera", "last seen", "numbers"], rows)


@app.command("name")
def name_unknown(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a class, new or known.")],
    moments: Moments,
    as_json: Json = False,
) -> None:
    """Teach moments as shots of a class, from what was embedded when they were seen."""
    with open_box(context) as box:
        receipts = box.name_unknown(moments, name)
        if as_json:
            emit({"class": receipts[0].class_name, "shots": [r.shot for r in receipts]})
        else:
            say(f"taught {receipts[0].class_name}: {count(len(receipts), 'shot')}")


@app.command("ignore")
def ignore_unknown(context: typer.Context, moments: Moments, as_json: Json = False) -> None:
    """Delete moments that are not worth a name."""
    with open_box(context) as box:
        box.ignore_unknown(moments)
        if as_json:
            emit({"ignored": moments})
        else:
            say(f"ignored {count(len(moments), 'moment')}")


@app.command("picture")
def picture(
    context: typer.Context,
    moment: Annotated[int, typer.Argument(metavar="MOMENT", help="Number of a moment.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JPEG to write.")],
) -> None:
    """Write a moment's small picture to a file."""
    with open_box(context) as box, box.unknown_queue() as queue:
        found = queue.thumb(moment)
    if found is None:
        raise NotFound(f"moment {moment} has no picture", found=moment)
    try:
        file.write_bytes(found)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", path=str(file)) from None
    say(f"wrote {file}")
