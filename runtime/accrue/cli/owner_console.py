"""`accrue-fleet console`: decide in a browser, on the computer where the owner's folder is."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from accrue.cli.owner_session import actor, opened

LISTEN = "127.0.0.1:8421"  # beside a device on the same computer
STATE = "console"


def console(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where the console listens.")
    ] = LISTEN,
) -> None:
    """Decide in a browser on this computer. The key stays in the owner's folder."""
    from accrue.cli.serve import serve
    from accrue.service.settings import load_settings

    with opened(context) as workspace:  # what is wrong with the folder is told before the start
        folder = workspace.folder
    given = {"state": folder / STATE, "fleet_owner": folder, "listen": listen, "actor": actor()}
    settings, origins = load_settings(given, os.environ)
    serve(settings, origins, ())
