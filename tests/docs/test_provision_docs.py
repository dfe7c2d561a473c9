"""The pages about provisioning say what the programs do; each command of a guide is one of them."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from test_docs import DOCS, FENCE, ROOT, first_cells, options, sections, text

sys.path.insert(0, str(ROOT / "tools"))

from accrue.board import Board, board_names, boards
from accrue.cli.main import app as device_app
from provisioning import flash
from provisioning.cli import app

PAGE = DOCS / "provision.md"
GUIDES = sorted((DOCS / "boards").glob("*.md"))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FLASHES = re.compile(
    r"^(?:cd \S+ && )?sudo (?:[A-Z]+=\S* )*"
    r"(?:\./(?:tools/kernel_flash/)?(?:l4t_initrd_)?flash\.sh |tar xpf ).*$",
    re.MULTILINE,
)


def flags(parser: argparse.ArgumentParser) -> set[str]:
    found = {word for action in parser._actions for word in action.option_strings}
    return {word for word in found if word.startswith("--")} - {"--help"}


def typed(page: Path, program: str) -> Iterator[list[str]]:
    """The words after a program, of each line of the page's blocks that begins with it."""
    for _, code in FENCE.findall(text(page)):
        for line in code.splitlines():
            if line.startswith(f"{program} "):
                yield shlex.split(line.partition(" #")[0])[1:]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_section_of_a_command_lists_its_options_and_no_other(name: str) -> None:
    body = sections(PAGE, 2)[f"`tools/provision {name}`"]
    listed = {word for word in first_cells(body) if word.startswith("--")}
    assert listed == options(COMMANDS[name])


def test_each_section_of_a_command_has_its_command() -> None:
    titled = {t.strip("`") for t in sections(PAGE, 2) if t.startswith("`tools/provision")}
    assert titled == {f"tools/provision {name}" for name in COMMANDS}


def test_the_options_of_apply_are_listed_and_no_other() -> None:
    body = sections(PAGE, 2)["From an overlay to a flashed device"]
    assert {w for w in first_cells(body) if w.startswith("--")} == flags(flash.parser())


def test_every_board_has_a_guide_and_the_page_leads_to_each() -> None:
    named = {name: [g.name for g in GUIDES if f"`{name}`" in text(g)] for name in board_names()}
    assert all(len(found) == 1 for found in named.values()), named
    assert all(f"(boards/{guide.name})" in text(PAGE) for guide in GUIDES)


@pytest.mark.parametrize("page", [PAGE, *GUIDES], ids=lambda page: page.stem)
def test_what_a_page_types_is_there(page: Path) -> None:
    seen = 0
    for words in typed(page, "tools/provision"):
        known = options(COMMANDS[words[0]])
        assert {w for w in words if w.startswith("--")} <= known, words
        for before, word in pairwise(words):
            if before == "--board":
                Board.load(word)
            if before in ("--jetpack", "--system"):
                Board.load(words[words.index("--board") + 1]).system(word)
        seen += 1
    for words in typed(page, "sudo"):
        if words[0].endswith("/apply"):
            flash.parser().parse_args(words[1:])
            seen += 1
        if words[0] == "accrue":
            command: Any = typer.main.get_command(device_app)
            for word in words[1:]:
                if not hasattr(command, "commands"):
                    break
                command = command.commands[word]
            assert {w for w in words if w.startswith("--")} <= options(command), words
    assert seen


def every_command() -> set[str]:
    """Each line that any board, release and variant is flashed by."""
    found = set()
    for board in boards():
        facts = asdict(board.flash)
        for system in board.systems:
            for l4t in system.l4t:
                for way in board.flash.ways:
                    for more in (
                        {},
                        *(
                            {"massflash": n, "fab": fab, "sku": sku}
                            for n in (2, 3, 5)
                            for fab in ("300", "500", "000")
                            for sku in board.flash.board_skus
                        ),
                    ):
                        choice = flash.Choice(l4t, way.storage, **more)  # type: ignore[arg-type]
                        try:
                            made = flash.commands(board.name, facts, choice)
                        except flash.Problem:
                            continue
                        found |= {f"cd {c.folder} && {c.line}" if c.folder else c.line
                                  for c in made}  # fmt: skip
    return found


@pytest.mark.parametrize(
    "guide", [g for g in GUIDES if g.stem.startswith("jetson")], ids=lambda guide: guide.stem
)
def test_each_flash_command_of_a_guide_is_one_that_the_program_gives(guide: Path) -> None:
    lines = [line for _, code in FENCE.findall(text(guide)) for line in FLASHES.findall(code)]
    assert len(lines) >= 4
    assert [line for line in lines if line not in every_command()] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_says_plainly_what_was_not_tried(guide: Path) -> None:
    assert "**Not tried on" in text(guide)


@pytest.mark.parametrize("board", [b for b in boards() if b.flash.ways], ids=lambda b: b.name)
def test_a_guide_names_the_usb_ids_and_modules_of_its_boards(board: Board) -> None:
    (guide,) = (g for g in GUIDES if f"`{board.name}`" in text(g))
    for fact in (*board.flash.recovery_usb, *board.identity.modules):
        assert fact in text(guide), fact
