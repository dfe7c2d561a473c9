"""The descriptions of boards: what comes with Accrue, what is refused, what is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from accrue.board import Board, begins, board_names, boards, boards_folder, parse
from accrue.errors import ConfigError, FutureVersion, NotFound

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "boards.md").read_text(encoding="utf-8")
NANO = "jetson-orin-nano-8gb"


def document(name: str = NANO) -> dict[str, Any]:
    found = yaml.safe_load((boards_folder() / f"{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def schema(kind: type[Any] = Board, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its field: `identity.modules`, `flash.ways.tool`."""
    hints = get_type_hints(kind)
    for key in fields(kind):
        dotted = f"{where}.{key.name}" if where else key.name
        yield dotted, key
        inner = [one for one in (hints[key.name], *get_args(hints[key.name])) if is_dataclass(one)]
        for one in inner:
            yield from schema(one, dotted)  # type: ignore[arg-type]


# ---- the reference ------------------------------------------------------------------------------


def documented() -> dict[str, list[str]]:
    """Each key of the reference with the cells of its row."""
    found: dict[str, list[str]] = {}
    where = ""
    for line in REFERENCE.partition("## The file")[2].splitlines():
        if line.startswith("## "):
            section = re.fullmatch(r"## `(\w+)`", line)
            where = f"{section[1]}." if section else ""
        elif more := re.match(r"Of each of `([\w.]+)`", line):
            where = f"{more[1]}."
        elif row := re.match(r"\| `(\w+)` \| (.+) \|$", line):
            found[where + row[1]] = row[2].split(" | ")
    return found


def test_every_key_is_documented_and_every_documented_key_is_one() -> None:
    assert list(dict.fromkeys(documented())) == list(documented())
    assert set(documented()) == {name for name, _ in schema()}


@pytest.mark.parametrize("name", [name for name, _ in schema()])
def test_a_key_tells_type_default_and_effect(name: str) -> None:
    """The default of the reference is that of the code."""
    key = dict(schema())[name]
    kind, default, effect = documented()[name]
    assert kind
    assert len(effect) > 5
    if key.default is MISSING:
        assert default == "required"
    elif key.default in ((), ""):
        assert default in ("none", "any", "not known")
    elif is_dataclass(key.default):
        assert default == "as below"
    else:
        value = key.default
        told = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        told = told.lower() if isinstance(value, bool) else told
        assert default.startswith(f"`{told}`")


def test_every_board_is_listed_and_every_listed_one_is_there() -> None:
    before = REFERENCE.partition("## Which board")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", before, re.MULTILINE)) == list(board_names())
    assert len(board_names()) == 10


# ---- the descriptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", board_names())
def test_a_description_is_called_as_its_file_and_is_coherent(name: str) -> None:
    """What one key says fits what another one says."""
    board = Board.load(name)
    assert board.name == name
    assert board.jetson == bool(board.identity.modules) == bool(board.power.file)
    for system in board.systems:
        assert bool(system.jetpack) == bool(system.l4t) == bool(system.cuda)
        assert board.system(system.jetpack or system.os) == system
    modes = {mode.name for mode in board.power.modes}
    assert set(board.power.prefer) <= modes
    assert all(mode.multiprocessors <= board.compute.multiprocessors for mode in board.power.modes)
    for way in board.flash.ways:
        assert board.flash.way(way.storage, f"{way.l4t[0]}.0") == way
        for l4t in way.l4t:
            assert board.flash.target(f"{l4t}.9", super=False), "a way without a configuration"
        assert way.source
    if board.jetson:
        assert "{sensor}" in board.cameras.csi
        for system in board.systems:
            assert any(begins(system.l4t[0], way.l4t) for way in board.flash.ways)


def test_no_two_boards_have_one_module() -> None:
    found = [module for board in boards() for module in board.identity.modules]
    assert len(found) == len(set(found))


def test_a_system_is_found_by_its_jetpack_or_name() -> None:
    board = Board.load(NANO)
    assert board.system("6.2.1").l4t[0] == "36.4.3"
    assert board.system("7.2").tensorrt == "10.16.2"
    with pytest.raises(
        NotFound, match=rf"^board {NANO} has no JetPack '7.0'; expected 6.0, 6.1, 6.2, 7.2$"
    ):
        board.system("7.0")
    with pytest.raises(NotFound, match=r"^board arm64 has no system '6.2'; expected debian-12, "):
        Board.load("arm64").system("6.2")
    with pytest.raises(NotFound):
        board.system("")


def test_a_version_begins_by_whole_numbers() -> None:
    assert begins("36.4.3", ("36.4",))
    assert begins("36.4", ("36.4",))
    assert not begins("36.40", ("36.4",))
    assert not begins("36", ("36.4",))
    assert not begins("36.4.3", ())


# ---- what is refused ----------------------------------------------------------------------------


def test_an_unknown_board_names_those_that_are_known() -> None:
    with pytest.raises(NotFound, match=r"^no board 'jetson-nano'; known boards: arm64, jetson-agx"):
        Board.load("jetson-nano")
    with pytest.raises(NotFound, match=r"^no board file /nowhere/x.yaml; known boards: "):
        Board.load("/nowhere/x.yaml")


def test_a_file_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**document(), "name": "my-carrier"}))
    assert Board.load(path).name == Board.load(str(path)).name == "my-carrier"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "green"}, r"^unknown key colour in b.yaml; known keys there: version, name"),
        (
            {"identity": {"modul": []}},
            r"^unknown key identity.modul in b.yaml; known keys there: modules, compatible",
        ),
        (
            {"flash": {"ways": [{"storage": "nvme", "l4t": ["36"], "tool": "x", "rot": 1}]}},
            r"^unknown key flash.ways\[0\].rot in b.yaml; known keys there: storage",
        ),
        ({"systems": "6.2"}, r"^systems in b.yaml is '6.2'; expected a list; docs/"),
        ({"identity": []}, r"^identity in b.yaml is '\[\]'; expected keys and values"),
        ({"architecture": "arm64"}, r"^architecture in b.yaml is 'arm64'; expected aarch64 or x86"),
        ({"name": "My Board"}, r"^name in b.yaml is 'My Board'; expected a text like"),
        (
            {"engine": {"batch": [1, 2]}},
            r"^engine.batch in b.yaml is '\[1, 2\]'; expected three numbers, ascending",
        ),
        ({"engine": {"batch": [8, 2, 1]}}, r"expected three numbers, ascending"),
        ({"engine": {"workspace_mib": 0}}, r"'0'; expected a whole number from 1 to 65536"),
        ({"engine": {"workspace_mib": True}}, r"'True'; expected a whole number"),
        ({"identity": {"gpu": "yes"}}, r"^identity.gpu in b.yaml is 'yes'; expected true or false"),
        (
            {"systems": [{"os": "debian-12", "python": 3.11, "glibc": "2.36"}]},
            r"^systems\[0\].python in b.yaml is '3.11'; expected a text \(in quotes where it looks",
        ),
        (
            {"cameras": {"csi": "src sensor={id}"}},
            r"^cameras.csi in b.yaml is '\{id\}'; expected sensor or device or width",
        ),
        (
            {"compute": {"nodes": ["/etc/shadow"]}},
            r"^compute.nodes\[0\] in b.yaml is '/etc/shadow'",
        ),
        ({"version": 0}, r"^version in b.yaml is 0; expected a whole number from 1 to 1"),
        ({"version": "1"}, r"^version in b.yaml is '1'; expected a whole number"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(change: dict[str, Any], message: str) -> None:
    """The key, what was found, what was expected."""
    with pytest.raises(ConfigError, match=message) as raised:
        parse({**document(), **change}, "b.yaml")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("key", [k.name for k in fields(Board) if k.default is MISSING])
def test_a_key_that_is_missing_is_told_with_its_meaning(key: str) -> None:
    found = document()
    del found[key]
    expected = "version in b.yaml is None" if key == "version" else f"{key} is missing in b.yaml; "
    with pytest.raises(ConfigError, match=f"^{expected}"):
        parse(found, "b.yaml")


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\tx: 1", "x: &a [*a]", "a: !!python/name:os"])
def test_what_is_no_description_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Board.load(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("a" * (1 << 19))
    with pytest.raises(ConfigError, match="is larger than 256 KiB"):
        Board.load(path)


# ---- versions -----------------------------------------------------------------------------------


def test_a_newer_description_is_refused() -> None:
    with pytest.raises(FutureVersion, match=r"^board b.yaml is of version 9; this Accrue reads up"):
        parse({**document(), "version": 9}, "b.yaml")


def test_an_older_description_goes_through_every_migration_in_order() -> None:
    """With two that are made up: the schema itself has had one version so far."""

    def from_1(old: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in old.items() if k != "label"}, "caption": old["label"]}

    def from_2(old: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in old.items() if k != "caption"}, "title": old["caption"] + "!"}

    old = document()
    old["label"] = old.pop("title")
    found = parse(old, "b.yaml", {1: from_1, 2: from_2}, newest=3)
    assert (found.version, found.title) == (3, document()["title"] + "!")
    assert old["version"] == 1  # what was handed in is not changed


def test_the_first_version_is_still_read() -> None:
    """A kept file of every version that was released; this is the first."""
    kept = ROOT / "tests" / "data" / "boards" / "version-1.yaml"
    found = Board.load(kept)
    assert found.name == "kept-version-1"
    assert found.flash.way("nvme", "36.4.3") is not None
    assert found.cameras.width == 640
