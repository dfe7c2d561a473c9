"""`accrue-fleet status`: each device, what it has, how far behind it is."""

from __future__ import annotations

from dataclasses import asdict

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, table
from accrue.cli.owner_session import PROGRAM, governing
from accrue.service.standing import DeviceSet, FleetDevice, FleetSet


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show each device: whether it is there, what it has, how far behind it is."""
    with governing(context) as owner:
        found = owner.status()
    if as_json:
        emit(asdict(found))
    else:
        _show_status(found.fleet, found.roster, found.devices, found.sets)


def _show_status(fleet: str, version: int, rows: list[FleetDevice], sets: list[FleetSet]) -> None:
    if not rows:
        note(f"no device yet; invite one: {PROGRAM} roster invite NAME")
    else:
        table(
            ["device", "name", "state", "classes", "shots", "digest", "manifest", "lag", "refused"],
            [
                (
                    row.device,
                    row.name,
                    row.state,
                    row.sets[0].classes if row.sets else "",
                    row.sets[0].shots if row.sets else "",
                    row.sets[0].digest[:12] if row.sets else "",
                    _installed(row.sets[0]) if row.sets else "",
                    "" if row.lag_ms is None else f"{row.lag_ms:,} ms",
                    sum(row.refused.values()),
                )
                for row in rows
            ],
        )
    for row in rows:
        if row.asks_for_key:
            note(f"{row.name} asks for a new key: {PROGRAM} roster rotate {row.name}")
        for said in row.sets:
            if said.refused:
                note(f"{row.name} rolled manifest {said.wanted} back: {said.refused}")
    for one in sets:
        text = f"class set {one.set} ({one.space[:12]}): {one.policy}, "
        text += f"{count(one.classes, 'class', 'classes')}, {count(one.shots, 'shot')}"
        if one.manifest:
            text += f", manifest {one.manifest}"
        if one.canary:
            text += f", manifest {one.canary.manifest} on trial with {one.canary.percent} %"
        if one.drafts:
            text += f", {count(one.drafts, 'draft')} to look at ({PROGRAM} propose)"
        if one.decided:
            text += f", {one.decided} decided ({PROGRAM} publish)"
        note(text)
    note(f"fleet {fleet}, roster {version}")


def _installed(one: DeviceSet) -> str:
    if one.wanted == one.manifest:
        return str(one.manifest or "")
    return f"{one.manifest} (not {one.wanted})"
