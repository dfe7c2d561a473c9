"""`accrue`: the command line. Nouns then verbs; every heavy import waits for its command."""

from __future__ import annotations

from typing import Annotated

import typer

from accrue import __version__
from accrue.cli import (
    ask,
    bundles,
    classes,
    device,
    engine,
    evaluate,
    fleet,
    journal,
    serve,
    sets,
    unknown,
    watch,
)
from accrue.cli.run import run

EPILOG = (
    "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 5 conflict, 6 refused by a quality gate. "
    "--state, --bundle, --config, --actor and --threads may stand anywhere in the line."
)
GLOBAL_FLAGS = ("--state", "--bundle", "--config", "--actor", "--threads")

app = typer.Typer(
    name="accrue",
    help="Teach a camera new classes on this device, and ask it what it sees.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(classes.app, name="class")
app.add_typer(unknown.app, name="unknown")
app.add_typer(bundles.app, name="bundle")
app.add_typer(engine.app, name="engine")
app.add_typer(fleet.app, name="fleet")
app.add_typer(sets.app, name="set")
app.add_typer(device.config_app, name="config")
app.command()(ask.predict)
app.command()(ask.why)
app.command()(watch.watch)
app.command("run")(serve.run)
app.command()(serve.pair)
app.add_typer(serve.access_app, name="access")
app.command()(evaluate.evaluate)
app.command()(journal.history)
app.command()(journal.undo)
app.command()(journal.backup)
app.command()(journal.restore)
app.command()(device.doctor)
app.command()(device.completion)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"accrue {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    state: Annotated[
        str | None, typer.Option(metavar="DIR", help="State folder (ACCRUE_STATE).")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle", metavar="BUNDLE", help="Encoder bundle (ACCRUE_BUNDLE); else the default."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML file (ACCRUE_CONFIG).")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who is written into the journal.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Of the encoder; 0: one a core.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = {
        "state": state,
        "bundle": bundle,
        "config": config,
        "actor": actor,
        "threads": threads,
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    run(app, "accrue", arguments, GLOBAL_FLAGS)


if __name__ == "__main__":
    main()
