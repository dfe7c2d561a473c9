"""What is sent to the browser: small, from this host alone, readable in the sun, licensed."""

from __future__ import annotations

import hashlib
import re

import pytest

from accrue.service.console.page import HERE

STATIC = HERE / "static"
PAIRS = (
    ("fg", "bg"), ("fg", "soft"), ("accent", "bg"), ("on-accent", "accent"), ("on-sure", "sure"),
    ("on-maybe", "maybe"), ("on-unknown", "unknown"), ("on-not-ready", "not-ready"),
    ("on-bad", "bad"), ("bad", "bg"), ("bg", "fg"),
)  # fmt: skip


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [":root", '[data-theme="dark"]'])
def test_every_pair_of_colours_stands_at_seven_to_one(theme: str) -> None:
    css = (STATIC / "style.css").read_text()
    block = css.partition(theme + " {")[2].partition("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for over, under in PAIRS:
        light, dark = sorted((luminance(colours[over]), luminance(colours[under])))[::-1]
        assert (light + 0.05) / (dark + 0.05) >= 7, (theme, over, under)


def test_no_file_names_another_host() -> None:
    known = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    sent = [path for kind in ("js", "css", "svg") for path in STATIC.rglob(f"*.{kind}")]
    for path in [*sent, *HERE.glob("templates/*")]:
        for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w./-]*", path.read_text()):
            assert address.removeprefix("https:").removeprefix("http:") in {
                one.removeprefix("http:") for one in known
            }, f"{path.name}: {address}"


def test_vendored_libraries_are_the_recorded_ones_and_carry_their_licences() -> None:
    record = (STATIC / "vendor" / "README.md").read_text()
    for path in (STATIC / "vendor").glob("*.js"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in record
    assert "Apache License" in (STATIC / "vendor" / "LICENSE-htm.txt").read_text()
    assert "MIT License" in (STATIC / "vendor" / "LICENSE-preact.txt").read_text()


def test_no_template_has_script_or_style_of_its_own() -> None:
    for path in HERE.glob("templates/*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=", text), path.name
        for tag in re.findall(r"<script[^>]*>", text):
            assert "src=" in tag or 'type="application/json"' in tag, path.name
