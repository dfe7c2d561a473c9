"""`accrue class`: teach classes and keep them in order."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.output import count, emit, note, one_form, progress, say, table, when
from accrue.cli.session import open_box
from accrue.errors import UsageError, error_object

if TYPE_CHECKING:
    from accrue.service.box import Learned, SplitSuggestion
    from accrue.service.coach import Report, Skipped
    from accrue.store import ClassRow, Entry

app = typer.Typer(help="Teach classes and keep them in order.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, as it happens.")]
Force = Annotated[bool, typer.Option("--force", help="Do it even if the answers get worse.")]
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
        "devices": list(row.devices),
        "disabled": row.disabled,
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
            off = any(row.disabled for row in rows)
            table(
                [
                    *("class", "shots", "rows", *["by name"] * named),
                    *(*["answered"] * off, "digest", "since"),
                ],
                [
                    (
                        row.name,
                        row.shots,
                        learned.state.count(row.id),
                        *["-" if row.prompt is None else "yes"] * named,
                        *["disabled" if row.disabled else "yes"] * off,
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
        refused = box.refusals(name)
        learned = box.learned()
        if as_json:
            emit(
                {
                    **_class(row, learned),
                    "shot_list": [asdict(shot) for shot in shots],
                    "not_this": [asdict(one) for one in refused],
                }
            )
            return
        also = [*row.aliases, *row.merged]
        say(
            f"{row.name}: {count(row.shots, 'shot')}"
            + (f", also {', '.join(also)}" if also else "")
        )
        if row.disabled:
            say(f'disabled: not answered; take it back in: accrue class enable "{row.name}"')
        say(f"id {row.id}")
        if row.prompt is not None:
            say(f"by name: {row.prompt}")
        if row.id in learned.state:
            say(f"digest {learned.state.class_digest(row.id)}")
        table(
            ["shot", "rows", "taught", "by", "from"],
            [
                (shot.id, shot.rows, when(shot.at), shot.actor or shot.device, shot.source)
                for shot in shots
            ],
        )
        if refused:
            table(
                ["not this", "noted", "by", "from"],
                [(one.id, when(one.at), one.actor or one.device, one.source) for one in refused],
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
            metavar="[FILE...]",
            help="Photos or folders of photos, each photo one shot; videos and cameras "
            "(camera:0, rtsp://...), each one shot.",
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
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Leave no near-duplicate or blurred photo out.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="S",
            help="Of a camera, how long it is watched (5); of a video, how much of it is taken.",
        ),
    ] = None,
    one_shot: Annotated[
        bool, typer.Option("--one-shot", help="All photos show one thing: together one shot.")
    ] = False,
) -> None:
    """Teach a class from photos, videos or cameras, by its name, or both.

    What is reported is on the disk.
    """
    from accrue.cli.clips import teach_clips, teach_photos
    from accrue.service.burst import HINTS, told
    from accrue.vision.sources import image_paths, is_stream

    one_form(as_json, as_lines)
    if prompt is not None and not by_name:
        raise UsageError("--prompt says what --by-name goes by", hint="add --by-name")
    if not files and not by_name:
        raise UsageError(
            "nothing to teach from: neither photos nor --by-name",
            hint='name photos, or let it learn from the name: accrue class teach "hex bolt" '
            "--by-name",
        )
    streams = [file for file in files or () if is_stream(file)]
    if seconds is not None and not streams:
        raise UsageError("--seconds is for cameras and videos", hint="leave it out")
    paths = [path for f in files or () if f not in streams for path in image_paths(Path(f))]
    taught: list[str] = []
    clips: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    everything = {"duplicates": 1.0, "blur": 1.0} if keep_all else {}
    about: Report | None = None
    with open_box(context, thumbnails=thumbnails, **everything) as box, progress() as update:
        images = ((str(path), path) for path in paths)
        label = name
        entry, text = None, None
        if by_name:
            entry = box.teach_by_name(name, prompt)
            row, _ = box.show(name)
            label, text = row.name, row.prompt
        if by_name and as_lines:
            emit({"class": label, "by_name": text}, indent=None)
        for done, receipt in enumerate(() if one_shot else box.teach(name, images), 1):
            update("teaching", done, len(paths))
            label = receipt.class_name
            if receipt.error is not None:
                refused.append({"path": receipt.source, **error_object(receipt.error)})
                note(f"accrue: {receipt.error.message}")
            elif receipt.skipped is not None:
                skipped.append({"path": receipt.source, **asdict(receipt.skipped)})
                note(_left_out(receipt.source, receipt.skipped))
            else:
                taught.append(receipt.shot)
            if as_lines:
                line: dict[str, Any] = {
                    "shot": receipt.shot or None,
                    "path": receipt.source,
                    "class": label,
                }
                if receipt.error is not None:
                    line["error"] = refused[-1]
                elif receipt.skipped is not None:
                    line["skipped"] = skipped[-1]
                emit(line, indent=None)
        together = teach_photos(box, name, paths) if one_shot else iter(())
        for clip in chain(together, teach_clips(box, name, streams, seconds)):
            label = clip.class_name
            clips.append(clip.as_json())
            if clip.error is not None:
                refused.append({"path": clip.source, **error_object(clip.error)})
                note(f"accrue: {clip.error.message}")
            else:
                note(f"accrue: {clip.source}: {told(clip.frames, clip.dropped)}")
            if clip.skipped is not None:
                skipped.append({"path": clip.source, **asdict(clip.skipped)})
                note(_left_out(clip.source, clip.skipped))
            if clip.shot:
                taught.append(clip.shot)
                if clip.hint:
                    note(f"accrue: next time: {HINTS[clip.hint]}")
            if as_lines:
                emit(clips[-1], indent=None)
        if (taught or by_name) and box.show(label)[0].disabled:
            note(
                f'accrue: {label} is disabled: learned, not answered; accrue class enable "{label}"'
            )
        if taught and not as_lines:
            about = next((found for found in box.quality() if found.name == label), None)
    if as_json:
        emit(
            {
                "class": label,
                "by_name": text,
                "shots": taught,
                "refused": refused,
                "skipped": skipped,
                "clips": clips,
                "quality": asdict(about) if about else None,
            }
        )
    elif not as_lines:
        if entry is not None:
            say(f"{entry.summary} (entry {entry.seq})")
        what = "source" if clips else "photo"
        unusable = f"; {count(len(refused), what)} could not be used" if refused else ""
        if files:
            given = len(streams) + (min(1, len(paths)) if one_shot else len(paths))
            say(f"taught {label}: {_kept(len(taught), given, skipped)}{unusable}")
        if skipped:
            note("--keep-all teaches what was left out too")
        if about:
            say(_advice(about))
    if refused:
        raise typer.Exit(1)


def _left_out(path: str, skipped: Skipped) -> str:
    if skipped.of:
        return (
            f"accrue: {path} left out: {skipped.reason} of shot {skipped.of} ({_measure(skipped)})"
        )
    return f"accrue: {path} left out: {skipped.reason} ({_measure(skipped)})"


def _measure(skipped: Skipped) -> str:
    return f"{'cosine' if skipped.of else 'blur'} {skipped.measure:.2f}"


def _kept(taught: int, given: int, skipped: list[dict[str, Any]]) -> str:
    """ "3 shots", or "kept 7 of 12: 3 near-duplicates, 2 blurred"."""
    if not skipped:
        return count(taught, "shot")
    reasons = [entry["reason"] for entry in skipped]
    duplicates, blurred = reasons.count("near-duplicate"), reasons.count("blurred")
    told = [count(duplicates, "near-duplicate")] if duplicates else []
    told += [f"{blurred} blurred"] if blurred else []
    return f"kept {taught} of {given}: {', '.join(told)}"


def _advice(about: Report) -> str:
    """What the coach says of a class, in a line."""
    right = "" if math.isnan(about.accuracy) else f", {about.accuracy:.0%} right when left out"
    told = f"{about.name}: {about.verdict.replace('_', ' ')} ({count(about.shots, 'shot')}{right}"
    if about.confusable and about.verdict == "confusable":
        told += ", looks like " + " or ".join(other.label for other in about.confusable[:2])
    if about.imbalanced:
        told += f", {about.balance:.1g} times the usual number of rows"
    return told + ")"


@app.command("quality")
def class_quality(context: typer.Context, as_json: Json = False) -> None:
    """Say of each class whether it is taught enough, and what it is mistaken for."""
    with open_box(context) as box:
        found = box.quality()
    if as_json:
        emit({"classes": [asdict(about) for about in found]})
        return
    table(
        ["class", "verdict", "shots", "right", "margin", "looks like"],
        [
            (
                about.name,
                about.verdict.replace("_", " ") + (", imbalanced" if about.imbalanced else ""),
                about.shots,
                "-" if math.isnan(about.accuracy) else f"{about.accuracy:.0%}",
                f"{about.margin:.1f}" if math.isfinite(about.margin) else "-",
                ", ".join(
                    f"{other.label} {other.share:.0%}" if other.share else other.label
                    for other in about.confusable[:2]
                ),
            )
            for about in found
        ],
    )


@app.command("suspects")
def list_suspects(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One class; else all of them.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Shots to show at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List the shots to look at: those that look least like what they were taught as."""
    with open_box(context) as box:
        found = box.suspects(name)[:limit]
    if as_json:
        emit({"suspects": [asdict(one) for one in found]})
    elif not found:
        note("no shot can be held against others yet: teach two classes of two shots each")
    else:
        table(
            ["shot", "taught as", "looks like", "margin", "from"],
            [
                (one.shot.id, one.label, one.looks_like, f"{one.margin:.1f}", one.shot.source)
                for one in found
            ],
        )
        note("right it with `accrue class relabel NAME SHOT...`; below 0 the other class wins")


@app.command("not")
def not_this(
    context: typer.Context,
    name: Name,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Photos of what the class is not.")
    ],
    as_json: Json = False,
) -> None:
    """Note that photos are not of a class: what is nearest to them is not answered so again."""
    from accrue.vision.sources import image_paths

    paths = [path for file in files for path in image_paths(Path(file))]
    with open_box(context) as box:
        _changed(box.not_this(name, ((str(path), path) for path in paths)), as_json)


@app.command("allow")
def allow(
    context: typer.Context,
    refusals: Annotated[
        list[str], typer.Argument(metavar="ID...", help="From `accrue class show`.")
    ],
    as_json: Json = False,
) -> None:
    """Take photos of `accrue class not` back."""
    with open_box(context) as box:
        _changed(box.allow(refusals), as_json)


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
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Let one class count as another. Nothing is moved, so it can be undone."""
    with open_box(context) as box:
        _changed(box.merge(name, into, force=force), as_json)


@app.command()
def disable(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Leave a class out of what this device answers; what it was taught stays."""
    with open_box(context) as box:
        _changed(box.disable(name), as_json)


@app.command()
def enable(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Answer a disabled class again."""
    with open_box(context) as box:
        _changed(box.enable(name), as_json)


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
            note(f"accrue: {path} may still hold them")


@app.command()
def relabel(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The class that the shots belong to.")
    ],
    shots: Annotated[
        list[str], typer.Argument(metavar="SHOT...", help="Shot ids, from `accrue class show`.")
    ],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Move shots to the class that they belong to."""
    with open_box(context) as box:
        _changed(box.relabel(shots, name, force=force), as_json)


@app.command()
def split(
    context: typer.Context,
    name: Name,
    new: Annotated[
        str | None, typer.Argument(metavar="NEW", help="Name of the class to be split off.")
    ] = None,
    shots: Annotated[
        list[str] | None,
        typer.Argument(metavar="SHOT...", help="Shot ids, from `accrue class show`."),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Only show two groups that the shots fall into.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Split the second of these groups off as NEW.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Split some shots of a class off as a new class."""
    if suggest and (apply or new or shots):
        raise UsageError("--suggest only shows two groups: it takes the name of a class alone")
    if apply and (new is None or shots):
        raise UsageError("--apply takes its shots from the suggestion: name the class and NEW")
    if not suggest and not apply and (new is None or not shots):
        raise UsageError(
            "no shots were given to split off",
            hint=f'two groups to choose from: accrue class split "{name}" --suggest',
        )
    with open_box(context) as box:
        if suggest:
            _suggested(box.suggest_split(name), as_json)
            return
        chosen = [shot.id for shot in box.suggest_split(name).second] if apply else shots or []
        _changed(box.split(name, chosen, new or ""), as_json)


def _suggested(found: SplitSuggestion, as_json: bool) -> None:
    if as_json:
        emit(asdict(found))
        return
    table(
        ["group", "shot", "taught", "from"],
        [
            (group, shot.id, when(shot.at), shot.source)
            for group, shots in ((1, found.first), (2, found.second))
            for shot in shots
        ],
    )
    advice = "two things by all appearances" if found.advisable else "not clearly two things"
    say(f"{found.label}: {advice} (separation {found.separation:.1f})")
    note(f'to split group 2 off: accrue class split "{found.label}" NEW --apply')


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
