"""`accrue doctor`, `accrue config` and `accrue completion`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say, table
from accrue.cli.session import settings_of

config_app = typer.Typer(help="Look at the settings in force.", no_args_is_help=True)


@config_app.command("show")
def config_show(
    context: typer.Context,
    origin: Annotated[
        bool, typer.Option("--origin", help="Tell where each value is from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every setting; with --origin, where its value comes from."""
    _, origins = settings_of(context)
    if as_json:
        emit(
            {
                "settings": {
                    name: {"value": _value(found.value), "origin": found.text}
                    for name, found in origins.items()
                }
            }
        )
        return
    rows = [(name, _shown(found.value), found.text) for name, found in origins.items()]
    if origin:
        table(["setting", "value", "origin"], rows)
    else:
        table(["setting", "value"], [row[:2] for row in rows])


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def _value(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else str(value)


def doctor(
    context: typer.Context,
    support: Annotated[
        Path | None,
        typer.Option(metavar="FILE.zip", help="Also write a file for support, without secrets."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this device: board, power, packages, encoder, state, cameras, service."""
    from accrue.service.doctor import examine
    from accrue.service.support import page, refuse_existing, write_support

    settings, origins = settings_of(context)
    if support is not None:
        refuse_existing(support)
    found = list(examine(settings))
    if support is not None:
        write_support(support, settings, found, origins)
    if as_json:
        written = {"support": str(support)} if support is not None else {}
        emit({"checks": [vars(check) for check in found], **written})
    else:
        for line in page(found):
            say(line)
        if support is not None:
            note(f"accrue: wrote {support}; it names classes and people, and holds no secrets")
    if any(check.status == "fail" for check in found):
        raise typer.Exit(1)


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")],
) -> None:
    """Print the completion script of a shell; source it from the shell's start file."""
    import typer.completion as shells

    from accrue.errors import UsageError

    if shell not in ("bash", "zsh", "fish", "powershell"):
        raise UsageError(f"no completion for {shell!r}; expected bash, zsh, fish or powershell")
    shells.completion_init()  # type: ignore[attr-defined]  # not listed, but documented
    # what bandit takes for a shell is the name of one
    script = shells.get_completion_script(  # type: ignore[attr-defined]
        prog_name="accrue",
        complete_var="_ACCRUE_COMPLETE",
        shell=shell,  # nosec B604
    )
    print(script)
    if sys.stdout.isatty():
        note(f"to use it: accrue completion {shell} > a file that your shell sources")
