"""The reference of `accrue-fleet` lists its commands and options, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from test_docs import DOCS, FENCE, first_cells, options, sections, text

from accrue.cli.main import app as device_app
from accrue.cli.owner import PROGRAM, app
from accrue.sync.trust import REASONS

PAGE = DOCS / "reference" / "accrue-fleet.md"
TYPED = re.compile(rf"^(?:\$ )?({PROGRAM}|accrue) (.*)$", re.MULTILINE)


def walk(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from walk([*words, name], below)
    else:
        yield words, command


def commands() -> dict[str, Any]:
    found = {}
    for words, command in walk([PROGRAM], typer.main.get_command(app)):
        for param in command.params:
            if param.param_type_name == "argument":
                word = param.name.upper() + ("..." if param.nargs == -1 else "")
                words = [*words, word if param.required else f"[{word}]"]
        found[" ".join(words)] = command
    return found


def test_each_command_has_its_section_and_each_section_its_command() -> None:
    titles = [title.strip("`") for title in sections(PAGE, 2)]
    assert sorted(titles) == sorted(["Global options", *commands()])


@pytest.mark.parametrize("line", sorted(commands()))
def test_a_section_lists_the_options_of_its_command_and_no_other(line: str) -> None:
    listed = {w for w in first_cells(sections(PAGE, 2)[f"`{line}`"]) if w.startswith("--")}
    assert listed == options(commands()[line])


def test_the_global_options_are_listed_and_no_other() -> None:
    listed = {w for w in first_cells(sections(PAGE, 2)["Global options"]) if w.startswith("--")}
    assert listed == options(typer.main.get_command(app))


@pytest.mark.parametrize("page", ["fleet.md", "reference/trust.md"])
def test_every_command_that_a_page_types_is_there(page: str) -> None:
    programs = {PROGRAM: typer.main.get_command(app), "accrue": typer.main.get_command(device_app)}
    known = {
        " ".join(words): options(command) | options(programs[words[0]])
        for name, program in programs.items()
        for words, command in walk([name], program)
    }
    typed = 0
    for _, code in FENCE.findall(text(DOCS / page)):
        for program, rest in TYPED.findall(code):
            line = f"{program} {rest}".partition("#")[0]
            names = [n for n in known if f"{line} ".startswith(f"{n} ")]
            assert names, line
            used = {w for w in line.split() if w.startswith("--") and w != "--"}
            assert used <= known[max(names, key=len)], line
            typed += 1
    assert typed or page != "fleet.md"


def test_the_reasons_of_a_refusal_are_listed_and_no_other() -> None:
    body = sections(DOCS / "reference" / "trust.md", 2)["What is refused"]
    assert sorted(first_cells(body)) == sorted(REASONS)
