"""The catalogues: every language says everything, and nothing is said that no screen shows."""

from __future__ import annotations

import re

import pytest

from accrue.service.console.page import HERE
from accrue.service.console.words import LANGUAGES, PLURAL, Words, catalogue, chosen

PLACE = re.compile(r"\{(\w+)\}")
SAYS_ITS_NUMBER = {"ar": {"zero", "one", "two"}}  # the word itself is singular or dual
MADE = (  # keys that are put together, by what their first part can be followed with
    "nav.", "title.", "role.", "state.", "camera.", "reason.", "dropped.", "hint.", "quality.",
    "problem.", "verb.", "job.", "look.", "device.doctor.", "presence.", "work.", "class.keep.",
    "said.delta_",
)  # fmt: skip


def places(text: str | dict[str, str]) -> set[str]:
    return set(PLACE.findall(text if isinstance(text, str) else text["other"]))


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_a_language_has_the_keys_of_english_with_the_same_places(language: str) -> None:
    english, other = catalogue("en"), catalogue(language)
    assert list(other) == list(english)
    for key, text in other.items():
        assert isinstance(text, dict) == isinstance(english[key], dict), key
        if isinstance(text, str):
            assert places(text) == places(english[key]), key
            assert text.strip(), key
            continue
        for category, form in text.items():
            found = set(PLACE.findall(form))
            if category in SAYS_ITS_NUMBER.get(language, ()):
                found |= {"n"}
            assert found == places(english[key]), f"{key}.{category}"


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_a_counted_text_has_exactly_the_plural_forms_of_its_language(language: str) -> None:
    category, known = PLURAL[language]
    assert {category(n) for n in range(200)} == set(known)
    for key, text in catalogue(language).items():
        if isinstance(text, dict):
            assert set(text) == set(known), key


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    sources = [*HERE.glob("templates/*.html"), *HERE.glob("static/*.js"), *HERE.glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    said = set(re.findall(r"""["'`]([a-z]+(?:\.[a-z_]+)+)["'`]""", text))
    known = set(catalogue("en"))
    called = set(re.findall(r"""\b(?:t|words)\(\s*["'`]([a-z]+(?:\.[\w-]+)+)["'`]""", text))
    assert called - known == set()
    unused = {key for key in known - said if not key.startswith(MADE)}
    assert unused == set()


def test_the_operators_choice_goes_before_the_browsers() -> None:
    assert chosen("ar", "de") == "ar"
    assert chosen("xx", "fr, es;q=0.5, zh-CN;q=0.7") == "zh"
    assert chosen(None, "fr;q=nonsense") == "en"


def test_arabic_is_written_from_right_to_left() -> None:
    assert Words("ar").direction == "rtl"
    assert Words("ar")("classes.shots", n=2) == "لقطتان"
    assert Words("ar")("classes.shots", n=11) == "11 لقطة"
