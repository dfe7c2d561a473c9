"""What an entry of the journal did, in the language of who reads it.

The journal has one line for each entry, in English. Here the line is taken apart and said anew; one
that is not known, as of a later version, is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from accrue.service.console.words import Words

_NAME = r'(?P<name>".*?")'
_INTO = r'(?P<into>".*")'
_N = r"(?P<n>[\d,]+)"
_LINES: tuple[tuple[str, str], ...] = (
    (rf"taught {_NAME}: {_N} shots?, (?P<rows>[\d,]+) rows?", "said.taught"),
    (rf"taught {_NAME} by name", "said.by_name"),
    (rf'taught {_NAME} by name: (?P<text>".*")', "said.by_text"),
    (rf"renamed {_NAME} to {_INTO}", "said.renamed"),
    (rf"removed {_NAME}: {_N} shots?", "said.removed"),
    (rf"relabelled {_N} shots? as {_INTO}", "said.relabelled"),
    (rf"split {_N} shots? of {_NAME} off as {_INTO}", "said.split"),
    (rf"merged {_NAME} into {_INTO}", "said.merged"),
    (rf"noted {_N} images? as not {_NAME}", "said.refused"),
    (rf"took back {_N} refused images?", "said.allowed"),
    (rf"set {_NAME} to keep rows, budget (?P<budget>\d+) rows", "said.kept_rows"),
    (rf"set {_NAME} to keep statistics, budget (?P<budget>\d+) rows", "said.kept_statistics"),
    (rf"{_N} shots? folded, which cannot be undone", "said.folded"),
    (rf"disabled {_NAME}", "said.disabled"),
    (rf"enabled {_NAME}", "said.enabled"),
    (
        rf"forgot {_N} shots? of {_NAME} to stay within memory, which cannot be undone",
        "said.forgot",
    ),
    (
        rf"purged {_N} class(?:es)?: (?P<shots>[\d,]+) shots?, (?P<rows>[\d,]+) rows?",
        "said.purged",
    ),
    (r"\w+ of a class since purged", "said.since_purged"),
    (r"installed manifest (?P<number>\d+)", "said.installed"),
    (r"the owner opened the class set", "said.opened"),
    (r"left the owner's set", "said.left"),
    (r"the class set is curated and has no manifest", "said.curated"),
    (r"received from (?P<who>[^\"]*)", "said.received"),
    (r"joined", "said.joined"),
)
_KNOWN = [(re.compile(pattern, re.DOTALL), key) for pattern, key in _LINES]
_REVERSED = re.compile(r"(undid|brought back) entry (\d+): (.*)", re.DOTALL)
_DELTA = re.compile(r'(".*?") (?:(new|removed|changed)|([+-][\d,]+) shots?)')
_DELTAS = re.compile(rf"(.*?): ({_DELTA.pattern}(?:, {_DELTA.pattern})*)(?: and ([\d,]+) more)?")


def said(words: Words, summary: str) -> str | None:
    """A journal entry's `summary` in the language of `words`; None where its form is not known."""
    if found := _REVERSED.fullmatch(summary):
        what = said(words, found[3])
        key = "said.undid" if found[1] == "undid" else "said.redone"
        return None if what is None else words(key, number=found[2], what=what)
    line = _line(words, summary)
    if line is not None:
        return line
    first, joint, second = summary.rpartition("; ")
    if joint and (one := _line(words, first)) and (two := _line(words, second)):
        return f"{one}; {two}"
    return _with_deltas(words, summary)


def _line(words: Words, text: str) -> str | None:
    for pattern, key in _KNOWN:
        if found := pattern.fullmatch(text):
            return words(key, **_values(words, found.groupdict()))
    return None


def _values(words: Words, found: dict[str, str]) -> dict[str, object]:
    """Numbers as numbers, and what is counted beside `n` in words."""
    counted: dict[str, Callable[[int], str]] = {
        "n": str,
        "rows": lambda n: words("said.rows", n=n),
        "shots": lambda n: words("classes.shots", n=n),
    }
    return {
        key: counted[key](_number(value)) if key in counted else value
        for key, value in found.items()
    }


def _with_deltas(words: Words, text: str) -> str | None:
    """`what happened: "bolt" +3 shots, "nut" removed and 2 more`, as of a fleet."""
    found = _DELTAS.fullmatch(text)
    head = _line(words, found[1]) if found else None
    if found is None or head is None:
        return None
    told = []
    for name, what, n in _DELTA.findall(found[2]):
        key = "said.delta_shots" if n else f"said.delta_{what}"
        told.append(words(key, name=name, n=n.replace(",", "")))
    several = ", ".join(told)
    more = found.groups()[-1]
    return f"{head}: {words('said.more', list=several, n=more) if more else several}"


def _number(text: str) -> int:
    return int(text.replace(",", ""))
