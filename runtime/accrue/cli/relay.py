"""`accrue fleet relay`: passes on what many devices say in one message for all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import emit, note

STEP_S = 0.5
TOLD_EVERY_S = 60.0


def relay(
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="Id of the fleet.")],
    broker: Annotated[
        str, typer.Option("--broker", metavar="HOST", help="Name or address of the broker.")
    ],
    password_file: Annotated[
        Path,
        typer.Option("--password-file", metavar="FILE", help="The password of the account."),
    ],
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Its port.")] = 8883,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="The account at the broker.")
    ] = "relay",
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="The broker's CA, in PEM.")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="Encrypt the connection (default).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Relay for a large fleet, until it is interrupted. It needs no key and keeps nothing."""
    from accrue.errors import UsageError
    from accrue.store.failures import translated
    from accrue.sync.endpoint import Endpoint
    from accrue.sync.identity import read_secret
    from accrue.sync.relay import Relay

    with translated(password_file):
        password = read_secret(password_file.read_text, "password")
    try:
        found = Relay(
            Endpoint(broker, port, user, password, ca, tls),
            fleet,
            client_id=f"{user}-{time.time_ns():x}",
        )
    except ValueError as error:
        raise UsageError(f"{fleet!r} is no fleet id", hint=str(error)) from None
    found.open()
    shown, told_at = "", time.monotonic()
    try:
        while True:
            found.step(STEP_S)
            state = found.describe()
            now = time.monotonic()
            if state == shown and (now - told_at < TOLD_EVERY_S or not as_json):
                continue
            shown, told_at = state, now
            if as_json:
                emit(
                    {
                        "at": time.time(),
                        "state": state,
                        "batches": found.batches,
                        "relayed": found.relayed,
                    },
                    indent=None,
                )
            else:
                note(f"accrue: relay: {state}")
    finally:
        found.close()
