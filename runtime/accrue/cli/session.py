"""From the words of a call to an open box."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from accrue.cli.output import note

if TYPE_CHECKING:
    from accrue.service.box import Box
    from accrue.service.settings import Origin, Settings


def settings_of(context: typer.Context, **flags: Any) -> tuple[Settings, dict[str, Origin]]:
    """Settings from the call's global flags, then `flags` of the command, environment and file."""
    from accrue.service.settings import load_settings

    given = dict(context.find_root().obj or {})
    file: str | None = given.pop("config", None)
    given |= {name: value for name, value in flags.items() if value is not None}
    return load_settings(given, os.environ, Path(file) if file else None)


@contextmanager
def open_box(context: typer.Context, **flags: Any) -> Iterator[Box]:
    from accrue.service.box import Box

    settings, _ = settings_of(context, **flags)
    with Box(settings, remark=lambda text: note(f"accrue: {text}")) as box:
        yield box
