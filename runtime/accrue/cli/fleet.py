"""`accrue fleet`: this device as a member of a fleet."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, say
from accrue.cli.relay import relay
from accrue.cli.session import open_box
from accrue.errors import AccrueError, BrokerUnreachable, NotFound, UsageError

app = typer.Typer(help="Share classes with a fleet of devices.", no_args_is_help=True)

Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="What the device is to be called.")
]
app.command()(relay)
DEFAULT_PORT = 8883
ONCE_SECONDS = 120
STEP_S = 0.5


@app.command()
def identity(context: typer.Context, name: Name = "", as_json: Json = False) -> None:
    """Show this device's id and public keys, for an owner to let it in without a network."""
    from accrue.service.fleet import Fleet
    from accrue.sync.identity import fingerprint

    with open_box(context) as box:
        found = Fleet(box).applicant(name)
    shown = fingerprint(found.key)
    if as_json:
        emit({**found.to_body(), "fingerprint": shown})
    else:
        say(f"device {found.device}, key {shown}")
        note("for the owner: accrue fleet identity --json > FILE")


@app.command()
def join(
    context: typer.Context,
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="What the owner told you.")
    ] = None,
    broker: Annotated[
        str, typer.Option("--broker", metavar="HOST", help="Name or address of the broker.")
    ] = "",
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Its port.")] = DEFAULT_PORT,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Its CA certificate, where you have it already."),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="Encrypt the connection (default).")
    ] = True,
    ticket: Annotated[
        Path | None,
        typer.Option("--ticket", metavar="FILE", help="Instead of a code: the owner's file."),
    ] = None,
    name: Name = "",
    seconds: Annotated[
        int, typer.Option("--for", min=1, metavar="SECONDS", help="How long to wait.")
    ] = 900,
    as_json: Json = False,
) -> None:
    """Join a fleet: with a code over its broker, or with the owner's file."""
    from accrue.service.fleet import Fleet
    from accrue.store.failures import translated
    from accrue.sync.identity import Broker, fingerprint

    if (code is None) == (ticket is None):
        raise UsageError(
            "a fleet is joined with a code or with a ticket",
            hint="accrue fleet join CODE --broker HOST, or accrue fleet join --ticket FILE",
        )
    with open_box(context) as box:
        fleet = Fleet(box)
        if ticket is not None:
            joined = fleet.join_by_ticket(ticket, host=broker, name=name)
        else:
            if not broker:
                raise UsageError(
                    "no --broker was given",
                    hint=f"accrue fleet join {code} --broker HOST; `accrue-fleet roster invite` "
                    "showed HOST to the owner",
                )
            ca_text = ""
            if ca is not None:
                with translated(ca):
                    ca_text = ca.read_text()
            asked = False

            def waiting() -> None:
                nonlocal asked
                if not asked:
                    note(f"asked to join; key {fingerprint(fleet.identity().public)}")
                    note(
                        f"waiting up to {seconds} s for the owner (accrue-fleet roster accept); "
                        "a wrong or expired code is told to the owner alone"
                    )
                asked = True

            joined = fleet.join(
                str(code),
                Broker(broker, port, tls, "", "", ca_text),
                name=name,
                seconds=seconds,
                waiting=waiting,
            )
        device = fleet.identity().device
    if as_json:
        emit(
            {
                "device": device,
                "fleet": joined.fleet,
                "owner": fingerprint(joined.owner),
                "broker": f"{joined.broker.host}:{joined.broker.port}",
            }
        )
    else:
        say(f"joined fleet {joined.fleet} as {device} (owner {fingerprint(joined.owner)})")
        note("next: accrue fleet sync --watch")


@app.command()
def leave(
    context: typer.Context,
    yes: Annotated[
        bool, typer.Option("--yes", help="Needed: what others taught leaves this device.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Leave the fleet. What this device taught stays here; what others taught goes."""
    from accrue.service.fleet import Fleet

    if not yes:
        raise UsageError(
            "what others have taught leaves this device; to have it back, join again",
            hint="add --yes",
        )
    with open_box(context) as box:
        left = Fleet(box).leave()
    if as_json:
        emit({"fleet": left.fleet})
    else:
        say(f"left fleet {left.fleet}; its owner may revoke the device: accrue-fleet roster revoke")


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show what this device knows of its fleet. Asks nobody."""
    from accrue.service.fleet import Fleet

    with open_box(context) as box:
        found = Fleet(box).status()
        digest = found.digest
    if as_json:
        emit(asdict(found))
        return
    say(f"{found.name or found.device} of fleet {found.fleet}: device {found.device}")
    say(f"key {found.fingerprint}, owner {found.owner}, broker {found.broker}")
    roster = f"roster {found.roster}, {count(found.devices, 'device')}" if found.roster else ""
    say(f"{roster or 'no roster yet'}; something known from {count(found.peers, 'other device')}")
    say(f"class set {found.policy}, digest {digest[:12]}; {found.unsent} to send")
    if found.policy == "curated":
        say(f"manifest {found.installed.number or 'none'}, {count(found.drafts, 'draft')}")
    if found.installed.refused:
        note(f"rolled manifest {found.installed.wanted} back: {found.installed.refused}")
    for _, taken, text in found.installed.remarks:
        note(f"the owner {'approved' if taken else 'did not approve'}{': ' if text else ''}{text}")
    if found.new_key:
        note(f"a new key waits for the owner: {found.new_key}")
    if found.revoked:
        note("the owner has taken this device out of the fleet")


@app.command()
def rotate(context: typer.Context, as_json: Json = False) -> None:
    """Make a new key, and ask the owner for it with the next sync."""
    from accrue.service.fleet import Fleet
    from accrue.sync.identity import fingerprint

    with open_box(context) as box:
        found = Fleet(box).rotate()
    assert found.following is not None
    shown = fingerprint(found.following.public)
    if as_json:
        emit({"device": found.device, "new_key": shown})
    else:
        say(f"made a new key, {shown}; the present one is used until the owner has put it in")
        note("next: accrue fleet sync, then the owner: accrue-fleet roster rotate")


@app.command()
def sync(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch/--once", help="Stay connected; or end when all is settled.")
    ] = False,
    seconds: Annotated[
        int, typer.Option("--for", min=1, metavar="SECONDS", help="At most, with --once.")
    ] = ONCE_SECONDS,
    as_json: Json = False,
) -> None:
    """Send what was taught here, and take over what others have taught."""
    from accrue.service.fleet import Fleet
    from accrue.service.following import Following

    lines: list[str] = []

    def told(text: str) -> None:
        lines.append(text)
        if as_json and watch:
            emit({"at": time.time(), "event": text}, indent=None)
        elif not as_json:
            say(text)
            sys.stdout.flush()

    with open_box(context) as box, Following(Fleet(box), told=told) as following:
        exchange = following.exchange
        until = time.monotonic() + seconds
        shown = ""
        while watch or not following.is_settled:
            following.step(STEP_S)
            error = exchange.link.error
            if not watch and error is not None and not exchange.link.is_up:
                raise error
            if not watch and time.monotonic() > until:
                raise BrokerUnreachable(
                    f"not everything was exchanged within {seconds} s: "
                    f"{len(exchange.ledger.unsent())} to send",
                    hint=_problem(exchange.problems)
                    or (
                        "try again, or give it longer: --for"
                        if following.trust.version
                        else "the owner has not published its roster yet: accrue-fleet status"
                    ),
                )
            state = _state(exchange)
            if watch and state != shown:
                shown = state
                note(f"accrue: {state}")
        result: dict[str, Any] = {
            "settled": following.is_settled,
            "digest": following.ledger.view().digest(),
            "roster": following.trust.version,
            "sent": exchange.figures.sent,
            "received": exchange.figures.applied,
            "refused": following.refused,
            "manifest": following.installed.number,
            "problems": [error.message for error in exchange.problems.values()],
            "events": lines,
        }
        cut_off = following.problem
    if as_json and not watch:
        emit(result)
    elif not as_json:
        note(
            f"sent {result['sent']}, received {result['received']}; digest {result['digest'][:12]}"
        )
    if cut_off:
        raise NotFound(cut_off, hint="ask the owner; to leave: accrue fleet leave --yes")


def _state(exchange: Any) -> str:
    if exchange.link.is_up:
        return f"{exchange.stage.value} at {exchange.link.endpoint}"
    error = exchange.link.error
    return str(error) if isinstance(error, AccrueError) else "connecting"


def _problem(problems: dict[str, AccrueError]) -> str:
    return "; ".join(error.message for error in problems.values())
