"""SQL is put together from names of our own tables and columns alone; values are parameters.

Every text that is handed to SQLite is read out of the source. What is put into one must be a name
listed here with its file, after somebody has looked where it comes from.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

RUNTIME = Path(__file__).parents[2] / "runtime" / "accrue"
CALLS = {"execute", "executemany", "executescript"}
# marks: "?, ?, ?"; keys, where, values, only: made of constants and marks in the same function;
# table, column, primary and the like: of `TRACKED` or of a literal in the caller.
KNOWN: dict[str, set[str]] = {
    "service/unknown.py": {"_COLUMNS"},
    "store/database.py": {"len(migrations)", "level", "statement"},
    "store/fleet.py": {"table"},
    "store/journal.py": {
        "', '.join('?' * len(names))",
        "', '.join(names)",
        "_ENTRY",
        "column",
        "primary",
        "table",
    },
    "store/schema.py": {"number + 1", "statement"},
    "store/store.py": {"blob", "column", "keys", "marks", "primary", "table", "values", "where"},
    "sync/tables.py": {"column", "columns", "only", "table", "where"},
    "sync/workspace.py": {"_STEP"},
}


def _interpolated(node: ast.AST) -> Iterator[ast.expr]:
    """What is put into a text that is made here."""
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield part.value
    elif isinstance(node, ast.BinOp):
        yield from _interpolated(node.left)
        yield from _interpolated(node.right)
    elif isinstance(node, ast.IfExp):
        yield from _interpolated(node.body)
        yield from _interpolated(node.orelse)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("format", "join", "replace"):
            yield node
    elif not isinstance(node, ast.Constant):
        yield node  # a name that holds a whole statement


def texts(source: str) -> Iterator[str]:
    """Every expression that ends up in a statement, as it is written."""
    calls = CALLS | ({"run"} if "run = self._connection.execute" in source else set())
    for call in ast.walk(ast.parse(source)):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute | ast.Name)
            and (getattr(call.func, "attr", "") or getattr(call.func, "id", "")) in calls
            and call.args
        ):
            yield from map(ast.unparse, _interpolated(call.args[0]))


def found() -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for path in sorted(RUNTIME.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        asks = "sqlite3" in source or "database" in source or "db.execute" in source
        if asks and (names := set(texts(source))):
            result[path.relative_to(RUNTIME).as_posix()] = names
    return result


def test_nothing_is_put_into_a_statement_but_names_of_our_own() -> None:
    assert found() == KNOWN


def test_the_check_sees_what_is_put_in() -> None:
    assert list(texts('db.execute(f"SELECT {name}" + more)')) == ["name", "more"]
    assert list(texts('db.execute("SELECT %s".format(a), (b,))')) == ["'SELECT %s'.format(a)"]
    assert list(texts('db.execute("SELECT ?", (f"{b}",))')) == []
