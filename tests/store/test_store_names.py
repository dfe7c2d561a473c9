"""Names: what is accepted, when two are one, and the class id."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accrue.errors import AccrueError, UsageError
from accrue.store import ACCRUE_NAMESPACE, class_id, class_key, clean_name, shown


def test_a_name_is_stripped_and_composed():
    assert clean_name("  cafe\u0301 \u00a0") == "caf\u00e9"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", 'class name "" is empty; expected something visible'),
        (" \u200b\u2060 ", "is empty; expected something visible"),
        ("a\nb", "class name \"a\\nb\" holds a control character ('\\n')"),
        ("a\x00b", "holds a control character ('\\x00')"),
        ("a\ud800b", "class name \"a\\ud800b\" holds half of a surrogate pair ('\\ud800')"),
        ("a\u2028b", "holds a line separator ('\\u2028')"),
        ("x" * 201, "has 201 characters; at most 200"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_in_one_line(name: str, text: str):
    with pytest.raises(UsageError) as caught:
        clean_name(name)
    assert text in caught.value.message
    assert len(str(caught.value).splitlines()) == 1


def test_ten_thousand_characters_are_not_printed():
    with pytest.raises(UsageError) as caught:
        clean_name("\U0001f600" * 10_000)
    assert "has 10,000 characters; at most 200" in caught.value.message
    assert len(str(caught.value)) < 200


@given(st.text(st.characters(), max_size=300))
def test_any_text_is_a_name_or_refused_in_one_printable_line(text: str):
    said = ""
    try:
        name = clean_name(text)
    except AccrueError as error:
        said = str(error)
        name = ""
    assert said.isprintable()
    assert bool(said) != bool(name)
    assert not name or clean_name(name.encode().decode()) == name


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_a_key_is_stable_under_case_and_under_itself(text: str):
    key = class_key(text)
    assert class_key(key) == key
    assert class_key(text.casefold()) == key


@pytest.mark.parametrize(
    ("one", "other"),
    [("Bolt", "bOLT"), ("STRASSE", "straße"), ("ﬁlter", "Filter"), ("Å", "A\u030a"), ("ς", "Σ")],
)
def test_names_that_look_the_same_have_one_key(one: str, other: str):
    assert class_key(one) == class_key(other)


def test_class_ids_are_uuid5_of_class_set_and_key_and_never_change():
    expected = uuid.uuid5(uuid.uuid5(ACCRUE_NAMESPACE, "default"), "pallet jack")
    assert class_id("default", "Pallet Jack") == str(expected)
    assert class_id("default", "Pallet Jack") == "cc3f499f-c10d-509d-b57c-e6c5a79b6775"
    assert class_id("other", "Pallet Jack") != class_id("default", "Pallet Jack")


@given(st.text(st.characters(), max_size=100))
def test_shown_text_is_one_short_line_that_can_be_encoded(text: str):
    line = shown(text)
    line.encode()
    assert line.isprintable()
    assert len(line) <= 42 * 10
