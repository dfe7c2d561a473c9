"""`accrue class`: teach classes and keep them in order."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.output import count, emit, note, one_form, progress, say, table, when
from accrue.cli.session import open_box
from accrue.errors import UsageError, error_object

if TYPE_CHECKING:
    from accrue.service.box import Learned
    from accrue.store import ClassRow, Entry

app = typer.Typer(help="Teach classes and keep them in order.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, as it happens.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of the class.")]


class Keep(Enum):
    """What is kept of a class's shots."""

    rows = "rows"
    statistics = "statistics"


def _class(row: ClassRow, learned: Learned) -> dict[str, Any]:
    return {
        "name": row.name,
        "id": row.id,
        "shots": row.shots,
        "rows": learned.state.count(row.id),
        "kept_rows": row.rows,
        "digest": learned.state.class_digest(row.id) if row.id in learned.state else None,
        "aliases": list(row.aliases),
        "merged": list(row.merged),
        "created_at": row.created_at,
        "retain": row.retain,
        "budget": row.budget,
        "by_name": row.prompt,
    }


def _changed(entry: Entry, as_json: bool) -> None:
    if as_json:
        emit({"entry": asdict(entry)})
    elif "cannot be undone" in entry.summary:
        say(f"{entry.summary} (entry {entry.seq})")
    else:
        say(f"{entry.summary} (entry {entry.seq}; take it back with `accrue undo {entry.seq}`)")


@app.command("list")
def list_classes(context: typer.Context, as_json: Json = False) -> None:
    """List the classes that this device knows."""
    with open_box(context) as box:
        rows, learned = box.classes(), box.learned()
        if as_json:
            state = learned.state
            emit(
                {
                    "classes": [_class(row, learned) for row in rows],
                    "digest": state.digest(),
                    "space_id": state.space,
                    "dim": state.dim,
                }
            )
        elif not rows:
            note("no class has been taught yet; teach one: accrue class teach NAME FILE...")
        else:
            named = any(row.prompt is not None for row in rows)
            table(
                ["class", "shots", "rows", *["by name"] * named, "digest", "since"],
                [
                    (
                        row.name,
                        row.shots,
                        learned.state.count(row.id),
                        *["-" if row.prompt is None else "yes"] * named,
                        _class(row, learned)["digest"][:12] if row.id in learned.state else "-",
                        when(row.created_at),
                    )
                    for row in rows
                ],
            )
            note(f"{count(len(rows), 'class', 'classes')}; state {learned.state.digest()[:12]}")


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show one class and its shots."""
    with open_box(context) as box:
        row, shots = box.show(name)
        learned = box.learned()
        if as_json:
            emit({**_class(row, learned), "shot_list": [asdict(shot) for shot in shots]})
            return
        also = [*row.aliases, *row.merged]
        say(
            f"{row.name}: {count(row.shots, 'shot')}"
            + (f", also {', '.join(also)}" if also else "")
        )
        say(f"id {row.id}")
        if row.prompt is not None:
            say(f"by name: {row.prompt}")
        if row.id in learned.state:
            say(f"digest {learned.state.class_digest(row.id)}")
        table(
            ["shot", "rows", "taught", "by", "from"],
            [(shot.id, shot.rows, when(shot.at), shot.actor, shot.source) for shot in shots],
        )


@app.command()
def teach(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the class; a new name makes a new class.")
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]", help="Photos or folders of photos; each photo is one shot."
        ),
    ] = None,
    as_json: Json = False,
    as_lines: JsonLines = False,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Teach what the name says; needs no photo.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With --by-name: a text to go by instead of the name."),
    ] = None,
    thumbnails: Annotated[
        int | None, typer.Option(help="Keep thumbnails of this many px (default: none).")
    ] = None,
) -> None:
    """Teach a class from photos, by its name, or both. What is reported is on the disk."""
    from accrue.vision.sources import image_paths

    one_form(as_json, as_lines)
    if prompt is not None and not by_name:
        raise UsageError("--prompt says what --by-name goes by", hint="add --by-name")
    if not files and not by_name:
        raise UsageError(
            "nothing to teach from: neither photos nor --by-name",
            hint='name photos, or let it learn from the name: accrue class teach "hex bolt" '
            "--by-name",
        )
    paths = [path for file in files or () for path in image_paths(Path(file))]
    taught: list[str] = []
    refused: list[dict[str, Any]] = []
    with open_box(context, thumbnails=thumbnails) as box, progress() as update:
        images = ((str(path), path) for path in paths)
        label = name
        entry, text = None, None
        if by_name:
            entry = box.teach_by_name(name, prompt)
            row, _ = box.show(name)
            label, text = row.name, row.prompt
        if by_name and as_lines:
            emit({"class": label, "by_name": text}, indent=None)
        for done, receipt in enumerate(box.teach(name, images), 1):
            update("teaching", done, len(paths))
            label = receipt.class_name
            if receipt.error is not None:
                refused.append({"path": receipt.source, **error_object(receipt.error)})
                note(f"accrue: {receipt.error.message}")
            else:
                taught.append(receipt.shot)
            if as_lines:
                line = {"shot": receipt.shot, "path": receipt.source, "class": label}
                failed = {"error": refused[-1]} if receipt.error is not None else {}
                emit(line if not failed else {**line, "shot": None, **failed}, indent=None)
    if as_json:
        emit({"class": label, "shots": taught, "refused": refused, "by_name": text})
    elif not as_lines:
        if entry is not None:
            say(f"{entry.summary} (entry {entry.seq})")
        unusable = f"; {count(len(refused), 'photo')} could not be used" if refused else ""
        if files:
            say(f"taught {label}: {count(len(taught), 'shot')}{unusable}")
    if refused:
        raise typer.Exit(1)


@app.command()
def rename(
    context: typer.Context,
    name: Name,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="New name; the old one stays as an alias.")
    ],
    as_json: Json = False,
) -> None:
    """Rename a class."""
    with open_box(context) as box:
        _changed(box.rename(name, new), as_json)


@app.command()
def merge(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The class that shall count as the other.")
    ],
    into: Annotated[
        str, typer.Argument(metavar="INTO", help="The class that it counts as from now on.")
    ],
    as_json: Json = False,
) -> None:
    """Let one class count as another. Nothing is moved, so it can be undone."""
    with open_box(context) as box:
        _changed(box.merge(name, into), as_json)


@app.command()
def remove(
    context: typer.Context,
    name: Name,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete it for good, from the disk too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed for what cannot be undone.")] = False,
    as_json: Json = False,
) -> None:
    """Forget a class, exactly: as if it had never been taught."""
    with open_box(context) as box:
        if not purge:
            _changed(box.remove(name), as_json)
            return
        if not yes:
            raise UsageError(
                "a purge deletes shots for good and cannot be undone",
                hint="add --yes, or leave --purge out",
            )
        gone = box.purge(name)
        if as_json:
            emit({"purged": asdict(gone)})
            return
        say(
            f"purged {name}: {count(gone.shots, 'shot')}, "
            f"{count(gone.rows, 'row')} are off the disk"
        )
        for path in gone.also_in:
            note(f"accrue: {path}, set aside by a restore, may still hold them")


@app.command()
def relabel(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The class that the shots belong to.")
    ],
    shots: Annotated[
        list[str], typer.Argument(metavar="SHOT...", help="Shot ids, from `accrue class show`.")
    ],
    as_json: Json = False,
) -> None:
    """Move shots to the class that they belong to."""
    with open_box(context) as box:
        _changed(box.relabel(shots, name), as_json)


@app.command()
def split(
    context: typer.Context,
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the class to be split off.")],
    shots: Annotated[
        list[str], typer.Argument(metavar="SHOT...", help="Shot ids, from `accrue class show`.")
    ],
    as_json: Json = False,
) -> None:
    """Split some shots of a class off as a new class."""
    with open_box(context) as box:
        _changed(box.split(name, shots, new), as_json)


@app.command()
def retention(
    context: typer.Context,
    name: Name,
    retain: Annotated[
        Keep | None, typer.Option(help="rows, or statistics: fold every shot at once.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Rows kept at most.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Needed for what cannot be undone.")] = False,
    as_json: Json = False,
) -> None:
    """Set how a class keeps its rows. Rows folded into statistics cannot be had back."""
    if retain is None and budget is None:
        raise UsageError("nothing to set", hint="name --retain, --budget or both")
    if (retain is Keep.statistics or budget is not None) and not yes:
        raise UsageError(
            "rows that this folds into statistics cannot be had back one by one", hint="add --yes"
        )
    with open_box(context) as box:
        _changed(box.retention(name, retain and retain.value, budget), as_json)
