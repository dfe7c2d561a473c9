"""The documents say what the program does: settings, commands, links and examples."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from accrue.cli.main import app
from accrue.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", text(page))


def sections(page: Path, level: int) -> dict[str, str]:
    """Heading to what stands below it, up to the next heading of this level or above."""
    marks = "#" * level
    parts = re.split(rf"^(#{{1,{level}}}) (.+)$", prose(page), flags=re.MULTILINE)
    rows = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {title: body for mark, title, body in rows if mark == marks}


def first_cells(body: str) -> Iterator[str]:
    """What stands in backticks in the first column of the tables."""
    for cell in re.findall(r"^\|([^|]*)\|", body, flags=re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", cell)


# ---- settings ----------------------------------------------------------------------------------


def test_each_setting_has_its_section_and_each_section_its_setting() -> None:
    headings = [title.strip("`") for title in sections(DOCS / "reference" / "settings.md", 2)]
    assert headings == [key.name for key in fields(Settings)]


@pytest.mark.parametrize("key", [key.name for key in fields(Settings)])
def test_a_setting_tells_type_default_flag_and_environment(key: str) -> None:
    body = sections(DOCS / "reference" / "settings.md", 2)[f"`{key}`"]
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", body, flags=re.MULTILINE))
    assert {"type", "default", "flag", "environment"} <= set(rows)
    assert rows["environment"] == f"`ACCRUE_{key.upper()}`"


@pytest.mark.parametrize(
    "key",
    [
        *("head", "reject", "budget", "memory", "retain", "thumbnails"),
        *("duplicates", "blur", "guard", "threads", "encoder"),
    ],
)
def test_a_default_of_the_reference_is_the_default_of_the_code(key: str) -> None:
    body = sections(DOCS / "reference" / "settings.md", 2)[f"`{key}`"]
    default = re.search(r"^\| default \| `?([^`:|]+?)`?(:.*)? \|$", body, flags=re.MULTILINE)
    assert default is not None
    assert default[1] == str(getattr(Settings(), key))


# ---- command line ------------------------------------------------------------------------------


def options(command: Any) -> set[str]:
    return {
        name
        for param in command.params
        if param.param_type_name == "option"
        for name in [*param.opts, *param.secondary_opts]
    } - {"-h", "--help"}


def usage(path: list[str], command: Any) -> str:
    """As a heading has it: optional arguments in brackets, repeated ones with dots."""
    words = ["accrue", *path]
    for param in command.params:
        if param.param_type_name == "argument":
            word = param.name.upper() + ("..." if param.nargs == -1 else "")
            words.append(word if param.required else f"[{word}]")
    return " ".join(words)


def commands() -> dict[str, Any]:
    """Usage line to command, for every command of the program."""
    found = {}
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [([*path, name], below) for name, below in command.commands.items()]
        else:
            found[usage(path, command)] = command
    return found


def documented() -> dict[str, str]:
    found = sections(DOCS / "reference" / "cli.md", 3)
    return {title.strip("`"): body for title, body in found.items()}


def test_each_command_has_its_section_and_each_section_its_command() -> None:
    assert sorted(documented()) == sorted(commands())


@pytest.mark.parametrize("line", sorted(commands()))
def test_a_section_lists_the_options_of_its_command_and_no_other(line: str) -> None:
    listed = {word for word in first_cells(documented()[line]) if word.startswith("--")}
    assert listed == options(commands()[line])


def test_the_global_options_are_listed_and_no_other() -> None:
    body = sections(DOCS / "reference" / "cli.md", 2)["Global options"]
    listed = {word for word in first_cells(body) if word.startswith("--")}
    assert listed == options(typer.main.get_command(app))


def test_the_exit_codes_of_the_table_are_those_of_the_errors() -> None:
    import accrue.errors as errors

    kinds = [e for e in vars(errors).values() if isinstance(e, type)]
    expected = {
        kind.__name__: kind.exit_code
        for kind in kinds
        if issubclass(kind, errors.AccrueError) and kind is not errors.AccrueError
    }
    found = {}
    body = sections(DOCS / "reference" / "cli.md", 2)["Streams and exit codes"]
    for code, named in re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", body, flags=re.MULTILINE):
        found |= {name: int(code) for name in re.findall(r"`(\w+)`", named)}
    assert found == expected


# ---- links -------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as the usual hosts of repositories make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_is_reached_from_the_index_or_from_a_page_that_is() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        inside = page.is_file() and page.suffix == ".md" and page.is_relative_to(DOCS)
        if page in reached or not inside:
            continue
        reached.add(page)
        for link in LINK.findall(prose(page)):
            if not re.match(r"[a-z]+:", link):
                waiting.append((page.parent / link.partition("#")[0]).resolve())
    assert sorted(DOCS.rglob("*.md")) == sorted(reached)


# ---- examples ----------------------------------------------------------------------------------


def python_blocks(page: Path) -> list[str]:
    return [code for language, code in FENCE.findall(text(page)) if language == "python"]


def test_the_python_examples_of_the_integration_page_run_in_order(
    tmp_path: Path,
    tiny_bundle: Path,
    photo_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind, name in enumerate(("hex bolt", "spur gear")):
        for i in range(6):
            photo_file(f"photos/{name}/{i:02}.jpg", seed=100 * kind + i, kind=kind)
    photo_file("new.jpg", seed=99, kind=1)
    shutil.copytree(tiny_bundle, tmp_path / "my-bundle")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(DOCS / "integrate.md")
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for number, code in enumerate(blocks, 1):
        exec(compile(code, f"integrate.md, block {number}", "exec"), names)


def test_the_space_id_of_the_bundle_page_is_what_its_code_and_accrue_compute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from accrue.bundle import space_id

    (code,) = python_blocks(DOCS / "reference" / "bundle.md")
    names: dict[str, Any] = {}
    exec(compile(code, "bundle.md", "exec"), names)
    said = re.search(r"^# ([0-9a-f]{64})$", code, flags=re.MULTILINE)
    assert said is not None
    assert capsys.readouterr().out.strip() == said[1]
    preprocess = {
        "resize": 256,
        "crop": 224,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    assert space_id("0" * 64, preprocess, None) == said[1]
