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
    opened,
    reports,
    stepped,
    visit,
)
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.sync.contribution import Scope
    from accrue.sync.difference import Difference
    from accrue.sync.report import SetReport
    from accrue.sync.workspace import Proposal, Workspace

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
    from accrue.sync.curation import curate

    if open_or_curated not in ("open", "curated"):
        raise UsageError(
            f"policy {open_or_curated!r}; expected open or curated", found=open_or_curated
        )
    with visit(context, contributions=True) as (workspace, _):
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
            stepped(step, False)


def propose(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """Gather what devices have taught since the manifest in force, class by class."""
    from accrue.sync import curation

    with visit(context, contributions=True) as (workspace, _):
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
    from accrue.sync.manifest import clean_remark

    text = clean_remark(remark)
    with opened(context) as workspace, workspace.database.atomic():
        steps = [workspace.decide(number, status, text) for number in dict.fromkeys(proposals)]
    if as_json:
        emit({"steps": [asdict(step) for step in steps]})
    else:
        for step in steps:
            stepped(step, False)
        note(f"nothing changes before: {PROGRAM} publish, or {PROGRAM} canary PERCENT")


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

    with visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.publish(workspace, scope, note=clean_remark(text))
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
    from accrue.sync import curation
    from accrue.sync.manifest import clean_remark

    with visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.publish(workspace, scope, percent=percent, note=clean_remark(text))
        head = workspace.head(scope)
        chosen = [
            member.name
            for device, member in workspace.roster().devices.items()
            if head and head.canary and head.canary.chooses(device)
        ]
    stepped(step, as_json, devices=sorted(chosen))
    if not as_json and percent:
        note(f"on: {', '.join(sorted(chosen)) or 'no device; try a larger share'}")


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

    with visit(context) as (workspace, _):
        scope = workspace.scope(class_set, space)
        step = curation.rollback(workspace, scope, to, clean_remark(text))
    stepped(step, as_json)


def manifests(
    context: typer.Context, class_set: Set = None, space: Space = None, as_json: Json = False
) -> None:
    """List the manifests of a class set."""
    with opened(context) as workspace:
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

    with visit(context, contributions=True) as (workspace, _):
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
    for said in reports(workspace).values():
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
