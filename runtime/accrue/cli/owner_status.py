"""`accrue-fleet status`: each device, what it has, how far behind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, table
from accrue.cli.owner_session import (
    PROGRAM,
    reports,
    visit,
)

if TYPE_CHECKING:
    from accrue.sync.contribution import Scope
    from accrue.sync.report import Report
    from accrue.sync.workspace import Workspace


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show each device: whether it is there, what it has, how far behind it is."""
    from accrue.sync.clock import stamp_ms
    from accrue.sync.presence import Presence

    with visit(context, contributions=True) as (workspace, _):
        roster, said_by = workspace.roster(), reports(workspace)
        states = {
            device: Presence.from_bytes((state or "").encode())
            for device, (state, _) in workspace.reports().items()
        }
        rows = []
        for device, member in sorted(roster.devices.items(), key=lambda d: d[1].name):
            said, present = said_by[device], states.get(device)
            rows.append(
                {
                    "device": device,
                    "name": member.name,
                    "state": "revoked"
                    if member.revoked is not None
                    else present.state
                    if present
                    else "never seen",
                    "version": said.agent if said else None,
                    "reported_at": stamp_ms(said.stamp) / 1000 if said else None,
                    "roster": said.roster if said else None,
                    "unsent": said.unsent if said else None,
                    "lag_ms": said.lag_ms if said else None,
                    "refused": dict(said.refused) if said else {},
                    "asks_for_key": bool(said and said.next_key and _is_new(member, said)),
                    "sets": [one.to_body() for one in said.sets] if said else [],
                }
            )
        sets = [_set_status(workspace, scope) for scope in workspace.scopes()]
        if as_json:
            emit(
                {
                    "fleet": workspace.fleet,
                    "roster": roster.version,
                    "devices": rows,
                    "sets": sets,
                }
            )
            return
        _show_status(workspace.fleet, roster.version, rows, sets)


def _is_new(member: Any, said: Report) -> bool:
    return said.next_key is not None and all(w.key != said.next_key.key for w in member.keys)


def _set_status(workspace: Workspace, scope: Scope) -> dict[str, Any]:
    from accrue.sync.curation import waiting

    head = workspace.head(scope)
    policy = workspace.roster().policy(scope.class_set)
    held = workspace.ledger(scope).summary()
    return {
        "set": scope.class_set,
        "space": scope.space,
        "dim": scope.dim,
        "policy": policy,
        "digest": held.digest,
        "classes": len(held.classes),
        "shots": held.shots,
        "manifest": head.stable.number if head and head.stable else None,
        "canary": {"percent": head.canary.percent, "manifest": head.canary.version.number}
        if head and head.canary
        else None,
        **(waiting(workspace, scope) if policy == "curated" else {}),
    }


def _show_status(
    fleet: str, version: int, rows: list[dict[str, Any]], sets: list[dict[str, Any]]
) -> None:
    def first(row: dict[str, Any], key: str) -> Any:
        return row["sets"][0][key] if row["sets"] else ""

    if not rows:
        note(f"no device yet; invite one: {PROGRAM} roster invite NAME")
    else:
        table(
            ["device", "name", "state", "classes", "shots", "digest", "manifest", "lag", "refused"],
            [
                (
                    row["device"],
                    row["name"],
                    row["state"],
                    first(row, "classes"),
                    first(row, "shots"),
                    str(first(row, "digest"))[:12],
                    _installed(row["sets"][0]) if row["sets"] else "",
                    "" if row["lag_ms"] is None else f"{row['lag_ms']:,} ms",
                    sum(row["refused"].values()),
                )
                for row in rows
            ],
        )
    for row in rows:
        if row["asks_for_key"]:
            note(f"{row['name']} asks for a new key: {PROGRAM} roster rotate {row['name']}")
        for one in row["sets"]:
            if one["refused"]:
                note(f"{row['name']} rolled manifest {one['wanted']} back: {one['refused']}")
    for one in sets:
        text = f"class set {one['set']} ({one['space'][:12]}): {one['policy']}, "
        text += f"{count(one['classes'], 'class', 'classes')}, {count(one['shots'], 'shot')}"
        if one["manifest"]:
            text += f", manifest {one['manifest']}"
        if one["canary"]:
            trial = one["canary"]
            text += f", manifest {trial['manifest']} on trial with {trial['percent']} %"
        if one.get("drafts"):
            text += f", {count(one['drafts'], 'draft')} to look at ({PROGRAM} propose)"
        if one.get("decided"):
            text += f", {one['decided']} decided ({PROGRAM} publish)"
        note(text)
    note(f"fleet {fleet}, roster {version}")


def _installed(one: dict[str, Any]) -> str:
    if one["wanted"] == one["manifest"]:
        return str(one["manifest"] or "")
    return f"{one['manifest']} (not {one['wanted']})"
