"""`accrue-fleet` for class sets: what devices have taught, and what goes live."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, show_difference, table, when
from accrue.cli.owner_session import (
    PROGRAM,
    all_stepped,
    folder_alone,
    governing,
    stepped,
    visit,
)
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.service.standing import Diff, Proposed

Set = Annotated[
    str | None, typer.Option("--set", metavar="SET", help="Class set, where there are several.")
]
Space = Annotated[
    str | None,
    typer.Option("--space", metavar="HEX", help="First characters of its space, likewise."),
]
Remark = Annotated[str, typer.Option("--remark", metavar="TEXT", help="What devices are told.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with the manifest.")]
Proposals = Annotated[
    list[int], typer.Argument(metavar="N...", help="Numbers from `accrue-fleet propose`.")
]


def policy(
    context: typer.Context,
    class_set: Annotated[str, typer.Argument(metavar="SET", help="Class set.")],
    open_or_curated: Annotated[str, typer.Argument(metavar="POLICY", help="open or curated.")],
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Say whether what is taught is live at once (open), or after you have published it."""
    with governing(context) as owner:
        steps = owner.policy(class_set, open_or_curated, space)
    all_stepped(steps, as_json)


def propose(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """Gather what devices have taught since the manifest in force, class by class."""
    with governing(context) as owner:
        found = owner.propose(class_set, space).proposals
    if as_json:
        emit({"proposals": [_proposal(one) for one in found]})
    elif not found:
        note("nothing to look at: no device has taught anything since the last manifest")
    else:
        table(
            ["proposal", "class", "shots", "from", "look out"],
            [
                (
                    one.id,
                    one.class_name,
                    _shots(one.difference),
                    ", ".join(sorted({by.name for by in one.entries})),
                    _collisions(one.difference),
                )
                for one in found
                if one.difference is not None
            ],
        )
        note(f"then: {PROGRAM} approve N... or {PROGRAM} deny N... --remark TEXT")


def _proposal(one: Proposed) -> dict[str, Any]:
    return {
        "id": one.id,
        "class": one.class_name,
        "class_id": one.class_id,
        "entries": [{"device": by.device, "revision": by.revision} for by in one.entries],
        "status": one.status,
        "remark": one.remark,
        "at": one.at,
        "difference": one.difference and asdict(one.difference),
    }


def _shots(change: Diff) -> str:
    parts = []
    for one in change.added:
        parts.append(f"new, {one.shots_after}")
    for one in change.changed:
        parts.append(f"{one.shots_before} -> {one.shots_after}")
    for one in change.removed:
        parts.append(f"{one.shots_before} -> removed")
    return "; ".join(parts) or "the same"


def _collisions(change: Diff) -> str:
    told = []
    for one in change.collisions[:2]:
        if one.same_name:
            told.append(f"another class is called {one.second}")
        else:
            told.append(f"near to {one.second} ({one.cosine:.2f})")
    return "; ".join(told)


def approve(
    context: typer.Context, proposals: Proposals, remark: Remark = "", as_json: Json = False
) -> None:
    """Take proposals into the next manifest."""
    _decide(context, proposals, "approved", remark, as_json)


def deny(
    context: typer.Context, proposals: Proposals, remark: Remark = "", as_json: Json = False
) -> None:
    """Leave proposals out of the next manifest; the device that taught them drops them then."""
    _decide(context, proposals, "denied", remark, as_json)


def _decide(
    context: typer.Context, proposals: list[int], status: str, remark: str, as_json: bool
) -> None:
    owner = folder_alone(context)
    steps = (owner.approve if status == "approved" else owner.deny)(proposals, remark)
    all_stepped(steps, as_json)
    if not as_json:
        note(f"nothing changes before: {PROGRAM} publish, or {PROGRAM} canary PERCENT")


def publish(
    context: typer.Context,
    text: Note = "",
    class_set: Set = None,
    space: Space = None,
    as_json: Json = False,
) -> None:
    """Put what was decided in force on every device; after a canary, put that in force."""
    with governing(context) as owner:
        step = owner.publish(class_set, space, text)
    stepped(step, as_json)


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
    with governing(context) as owner:
        step, chosen = owner.canary(percent, class_set, space, text)
    stepped(step, as_json, devices=chosen)
    if not as_json and percent:
        note(f"on: {', '.join(chosen) or 'no device; try a larger share'}")


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
    with governing(context) as owner:
        step = owner.rollback(to, class_set, space, text)
    stepped(step, as_json)


def manifests(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """List the manifests of a class set."""
    scope, found = folder_alone(context).manifests(class_set, space)
    if as_json:
        listed = [asdict(one) for one in found]
        emit({"set": scope.class_set, "space": scope.space, "manifests": listed})
        return
    table(
        ["manifest", "when", "classes", "", "note"],
        [
            (
                one.number,
                when(one.at),
                one.classes,
                "in force" if one.in_force else "on trial" if one.on_trial else "",
                one.note,
            )
            for one in found
        ],
    )


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
    with governing(context) as owner:
        change, accuracy = owner.diff(first, last, class_set, space)
    if as_json:
        emit({"difference": asdict(change), "accuracy": asdict(accuracy)})
        return
    show_difference(change)
    if accuracy.before is not None:
        note(
            f"accuracy on kept shots, as {count(accuracy.devices, 'device')} reported: "
            f"{accuracy.before:.1%} -> {accuracy.after:.1%}"
        )


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
    with visit(context) as (workspace, _):
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
    stepped(step, as_json)
