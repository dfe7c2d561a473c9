"""The reference of `accrue-export` lists its commands and options, and no others."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main
from test_docs import DOCS, first_cells, options, sections

pytest.importorskip("onnx", reason='onnx is missing: pip install "accrue[export]"')

from accrue_export.cli import app
from accrue_export.ladder import HEADS, SHOTS, Ladder

PAGE = DOCS / "reference" / "export.md"


def commands() -> dict[str, Any]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        words = ["accrue-export", name]
        for param in command.params:
            if param.param_type_name == "argument":
                words.append(param.name.upper() + ("..." if param.nargs == -1 else ""))
        found[" ".join(words)] = command
    return found


def test_each_command_has_its_section_and_each_section_its_command() -> None:
    assert sorted(title.strip("`") for title in sections(PAGE, 2)) == sorted(commands())


@pytest.mark.parametrize("line", sorted(commands()))
def test_a_section_lists_the_options_of_its_command_and_no_other(line: str) -> None:
    listed = {word for word in first_cells(sections(PAGE, 2)[f"`{line}`"]) if word[0] == "-"}
    assert listed == options(commands()[line])


def test_the_fields_of_verify_are_those_of_the_code() -> None:
    body = sections(PAGE, 2)["`accrue-export verify BUNDLE`"]
    named = set(re.findall(r"`(\w+)`", body.split("JSON:")[1].split("| option")[0]))
    document = Ladder("", "", 1, 1).document()
    assert set(document) <= named


def test_every_option_that_the_walk_through_types_is_there() -> None:
    known = {word for command in commands().values() for word in options(command)}
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    typed = set()
    for line in re.findall(r"^accrue-export .*(?:\\\n.*)*", text, flags=re.MULTILINE):
        typed |= {word for word in line.split() if word.startswith("-")}
    assert len(typed) >= 8
    assert typed <= known


def test_the_table_of_the_walk_through_has_the_shots_and_heads_of_the_code() -> None:
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| encoder | head |"))
    found = re.findall(r"(\d+) shots?", header)
    assert tuple(int(n) for n in found) == SHOTS
    rows = set(re.findall(r"^\|[^|]*\| (\w+) \|", text, flags=re.MULTILINE))
    assert set(HEADS) <= rows
