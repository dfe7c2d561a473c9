"""`accrue`: the command line. Nouns then verbs; every heavy import waits for its command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from accrue import __version__
from accrue.cli import ask, bundles, classes, device, engine, evaluate, journal, unknown, watch
from accrue.cli.output import emit, note
from accrue.errors import AccrueError, error_object

EPILOG = (
    "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 5 conflict, 6 refused by a quality gate. "
    "--state, --bundle, --config, --actor and --threads may stand anywhere in the line."
)
GLOBAL_FLAGS = ("--state", "--bundle", "--config", "--actor", "--threads")
INTERRUPTED = 130

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
app.add_typer(device.config_app, name="config")
app.command()(ask.predict)
app.command()(ask.why)
app.command()(watch.watch)
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
        typer.Option(metavar="BUNDLE", help="Encoder bundle (ACCRUE_BUNDLE); else the default."),
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


def hoisted(arguments: list[str]) -> list[str]:
    """The same call with the global flags in front, where the parser expects them."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word in GLOBAL_FLAGS:
            front += [word, *[value for value in [next(waiting, None)] if value is not None]]
        elif word.split("=", 1)[0] in GLOBAL_FLAGS:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may be no text in the stream's encoding
            stream.reconfigure(errors="backslashreplace")
    if "_ACCRUE_COMPLETE" in os.environ:
        import typer.completion as shells

        shells.completion_init()  # type: ignore[attr-defined]
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    try:
        code = app(args=hoisted(words), prog_name="accrue", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except AccrueError as error:
        note(f"accrue: {error.message}")
        if error.hint:
            note(f"  {error.hint}")
        if "--json" in words or "--jsonl" in words:
            emit({"error": error_object(error)}, indent=2 if "--json" in words else None)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        note("accrue: interrupted; what was acknowledged is kept")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # words that typer refused
            error.show()
            return int(error.exit_code)
        if os.environ.get("ACCRUE_DEBUG"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        note(f"accrue: {text}")
        note("  if this is not explained by the message, ACCRUE_DEBUG=1 shows where it came from")
        return 1


if __name__ == "__main__":
    main()
