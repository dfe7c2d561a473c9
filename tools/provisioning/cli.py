"""`tools/provision`: packages, overlays and identities for devices. docs/provision.md."""

from __future__ import annotations

import typer

from accrue.cli.run import run
from provisioning import identities, overlay, package, remote

PROGRAM = "tools/provision"
app = typer.Typer(
    name=PROGRAM,
    help="Make what a device is installed from, and who it is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def settings() -> None:
    """Each command writes below --out, asks before anything, and answers in JSON with --json."""


app.command("deb")(package.command)
app.command("overlay")(overlay.command)
app.command("flash")(overlay.show)
app.command("ssh")(remote.command)
app.command("identities")(identities.command)


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    run(app, PROGRAM, arguments, ())
