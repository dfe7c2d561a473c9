"""The table of topics: building, taking apart, and who may do what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from accrue.sync.topics import BY_NAME, ROLES, TOPICS, Topics, access

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOPIC = Topics("dock")
FIELDS = {
    "device": "0123456789ab",
    "set": "default",
    "space": "0123456789abcdef",
    "class": "cc3f499f-c10d-509d-b57c-e6c5a79b6775",
    "sha256": "ab" * 32,
    "chunk": 7,
}


def fields_of(name: str) -> dict[str, str | int]:
    return {
        ("class_id" if field == "class" else field): FIELDS[field]
        for field in re.findall("<([a-z0-9]+)>", BY_NAME[name].path)
    }


@pytest.mark.parametrize("name", [topic.name for topic in TOPICS])
def test_what_is_built_is_taken_apart_to_the_same_fields(name: str) -> None:
    fields = fields_of(name)
    address = TOPIC.parse(TOPIC.path(name, **fields))
    assert address is not None
    assert address.name == name
    assert {key: getattr(address, key) for key in fields} == fields


@pytest.mark.parametrize("name", [topic.name for topic in TOPICS])
def test_no_topic_is_so_long_that_a_chunk_would_not_fit_its_packet(name: str) -> None:
    longest = Topics("f" * 32).path(name, **{**fields_of(name), **_longest(name)})
    assert len(longest) <= 300


def _longest(name: str) -> dict[str, str | int]:
    return {k: v for k, v in {"set": "s" * 64, "chunk": 65_535}.items() if k in fields_of(name)}


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "accrue/v1/dock",
        "accrue/v1/dock/",
        "accrue/v1/dock/unknown",
        "accrue/v1/other/roster",
        "accrue/v2/dock/roster",
        "accrue/v1/dock/dev/0123456789ab/state/",
        "accrue/v1/dock/dev/0123456789AB/state",
        "accrue/v1/dock/dev/0123456789a/state",
        "accrue/v1/dock/dev/0123456789ab/states",
        "accrue/v1/dock/dev/0123456789ai/state",  # i is none of Crockford's letters
        "accrue/v1/dock/dev/+/state",
        f"accrue/v1/dock/owner/data/{'ab' * 32}/07",
        f"accrue/v1/dock/owner/data/{'ab' * 32}/-1",
        f"accrue/v1/dock/owner/data/{'ab' * 32}/٣",
        "accrue/v1/dock/dev/0123456789ab/state\n",
        "x" * 70_000,
    ],
)
def test_a_topic_of_another_form_is_none_of_ours(topic: str) -> None:
    assert TOPIC.parse(topic) is None


def test_a_field_that_does_not_fit_is_refused_before_it_is_in_a_topic() -> None:
    for wrong in ("+", "a/b", "#", "", "0123456789ab\n"):
        with pytest.raises(ValueError, match="topic"):
            TOPIC.path("state", device=wrong)
    with pytest.raises(ValueError, match="needs <device>"):
        TOPIC.path("state")
    with pytest.raises(ValueError, match="has no <set>"):
        TOPIC.filter("roster", set="default")
    with pytest.raises(ValueError, match="fleet"):
        Topics("Dock/1")


def test_what_is_not_retained_expires_and_what_is_retained_does_not() -> None:
    assert all((topic.expiry_s is None) == topic.retain for topic in TOPICS)


def test_every_message_is_acknowledged_by_the_broker() -> None:
    assert {topic.qos for topic in TOPICS} == {1}


def test_a_device_writes_below_its_own_id_alone() -> None:
    written = {topic for what, topic in access("device", "dock", "0123456789ab") if what == "write"}
    assert written
    assert all(topic.startswith("accrue/v1/dock/dev/0123456789ab/") for topic in written)


def test_a_joining_device_reaches_its_own_enrolment_and_nothing_else() -> None:
    assert set(access("joining", "dock")) == {
        ("write", "accrue/v1/dock/enrol/%c/request"),
        ("read", "accrue/v1/dock/enrol/%c/reply"),
    }


def test_each_reader_and_writer_of_the_table_has_access_and_no_other() -> None:
    for role in ROLES:
        rules = set(access(role, "dock", "0123456789ab"))
        for topic in TOPICS:
            path = "accrue/v1/dock/" + re.sub(
                "<[a-z0-9]+>", "+", topic.path.replace("<device>", "DEVICE")
            )
            for what, allowed in (
                ("write", role in (topic.writer, "owner") or role == "owner"),
                ("read", role in topic.readers or role == "owner"),
            ):
                forms = {path.replace("DEVICE", one) for one in ("0123456789ab", "+", "%c")}
                granted = any((what, form) in rules for form in forms) or role == "owner"
                assert granted == allowed, (role, what, topic.name)


def test_the_reference_shows_the_table_as_the_code_has_it() -> None:
    text = (DOCS / "reference" / "topics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, flags=re.MULTILINE)
    shown = {path: [cell.strip() for cell in rest.split(" | ")] for path, rest in rows}
    for topic in TOPICS:
        assert shown.get(topic.path) == [
            topic.writer,
            ", ".join(topic.readers),
            "yes" if topic.retain else "no",
            "never" if topic.expiry_s is None else f"{topic.expiry_s} s",
            f"`{topic.content}`",
            topic.why,
        ]
    assert set(shown) >= {topic.path for topic in TOPICS}
    assert not [path for path in shown if "/" in path and path not in {t.path for t in TOPICS}]
