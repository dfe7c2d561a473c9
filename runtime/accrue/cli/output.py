"""What goes to stdout and what to stderr. Data on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.service.standing import Diff
    from accrue.sync.difference import Difference

SCHEMA = 1  # of everything that --json and --jsonl print; docs/reference/cli.md


def emit(value: dict[str, Any], *, indent: int | None = 2) -> None:
    """One JSON object on stdout; with `indent=None`, on one line, flushed."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps({"schema": SCHEMA, **_plain(value)}, ensure_ascii=not unicode, indent=indent)
    print(text)
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """The same with what JSON knows: no NaN, no infinity, no paths."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def say(text: str) -> None:
    """A result for people, on stdout."""
    print(text)


def note(text: str) -> None:
    """A remark, on stderr."""
    print(text, file=sys.stderr)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Aligned columns on stdout; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(c) for c in column) for column in zip(headers, *cells, strict=True)]
    right = [bool(rows) and isinstance(rows[0][i], int | float) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    say(line(headers))
    for row in cells:
        say(line(row))


def count(n: int, thing: str, plural: str = "") -> str:
    """ "1 shot", "2 shots"."""
    return f"{n} {thing if n == 1 else plural or thing + 's'}"


def one_form(as_json: bool, as_lines: bool) -> None:
    """Refuses --json together with --jsonl."""
    if as_json and as_lines:
        raise UsageError("--json and --jsonl exclude each other", hint="leave one of them out")


def when(at: float) -> str:
    """Unix seconds as local time."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr where that is a terminal: call it with (what, done, total)."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


def show_difference(change: Difference | Diff) -> None:
    """For people: a line for each class, then what may be confused."""
    rows: list[tuple[Any, ...]] = []
    for sign, changes in (("+", change.added), ("~", change.changed), ("-", change.removed)):
        for one in changes:
            was = f" (was {one.was})" if one.was else ""
            rows.append((sign, one.name + was, one.shots_before, one.shots_after))
    if rows:
        table(["", "class", "shots before", "after"], rows)
    else:
        note("no difference")
    for pair in change.collisions:
        if pair.same_name:
            note(f"two classes are called {pair.first}: merge them, or rename one")
        else:
            note(f"{pair.first} and {pair.second} look alike (cosine {pair.cosine:.2f})")
