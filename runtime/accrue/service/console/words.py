"""The console's words: one plain JSON catalogue for each language.

A text has `{places}` for values. Where a number `n` decides the form, it is an object with the
plural categories of CLDR that the language has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "words"
DEFAULT = "en"
LANGUAGES = {"en": "English", "de": "Deutsch", "es": "Español", "zh": "中文", "ar": "العربية"}
RIGHT_TO_LEFT = frozenset({"ar"})
_PLACE = re.compile(r"\{(\w+)\}")

Text = str | dict[str, str]


def _one_or_other(n: int) -> str:
    return "one" if n == 1 else "other"


def _arabic(n: int) -> str:
    if n <= 2:
        return ("zero", "one", "two")[n]
    last = n % 100
    return "few" if 3 <= last <= 10 else "many" if last >= 11 else "other"


PLURAL: Mapping[str, tuple[Callable[[int], str], tuple[str, ...]]] = {
    "en": (_one_or_other, ("one", "other")),
    "de": (_one_or_other, ("one", "other")),
    "es": (_one_or_other, ("one", "other")),
    "zh": (lambda _: "other", ("other",)),
    "ar": (_arabic, ("zero", "one", "two", "few", "many", "other")),
}


@cache
def catalogue(language: str) -> dict[str, Text]:
    found: dict[str, Text] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


class Words:
    """The texts of one language.

    >>> Words("en")("classes.shots", n=1)
    '1 shot'
    >>> Words("de")("common.undo")
    'Zurücknehmen'
    """

    def __init__(self, language: str) -> None:
        self.language = language if language in LANGUAGES else DEFAULT
        self.direction = "rtl" if self.language in RIGHT_TO_LEFT else "ltr"
        self.catalogue = catalogue(self.language)

    def __call__(self, key: str, **values: Any) -> str:
        """The text of a key with its places filled. Raises KeyError."""
        text = self.catalogue[key.replace(" ", "-")]
        if isinstance(text, dict):
            category, _ = PLURAL[self.language]
            text = text[category(abs(int(values["n"])))]
        return _PLACE.sub(lambda place: str(values.get(place[1], place[0])), text)

    def has(self, key: str) -> bool:
        return key.replace(" ", "-") in self.catalogue


def chosen(cookie: str | None, accepted: str) -> str:
    """The language to speak: the operator's choice, else the first of the browser's that is there.

    >>> chosen(None, "fr-CA,de-AT;q=0.8,en;q=0.5")
    'de'
    """
    if cookie in LANGUAGES:
        return str(cookie)
    wishes = []
    for place, part in enumerate(accepted.split(",")[:20]):
        tag, _, weight = part.partition(";q=")
        try:
            wishes.append((-float(weight or 1), place, tag.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    return next((tag for _, _, tag in sorted(wishes) if tag in LANGUAGES), DEFAULT)
