"""A contribution: golden bytes, and every defect with the exact reason of its refusal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fleet_cases import DEVICES, NOW_MS, SCOPE, SPACE, TRUST, key_for, ledger, unhurried
from hypothesis import given
from hypothesis import strategies as st
from make_samples import BOLT, DATA, DEVICE, ROWS, broken_contributions, contribution, envelope

from accrue.errors import Rejected
from accrue.sync.clock import Clock
from accrue.sync.contribution import Contribution, Scope, text_vector
from accrue.sync.inbox import Inbox, open_contribution
from accrue.sync.parts import hash_of
from accrue.sync.signed import parse, seal, split
from accrue.sync.trust import REASONS

GOLDEN = DATA / "v1"
BROKEN = {path.parent.name: path for path in sorted(DATA.glob("*/envelope"))}
REASON = {defect: reason for defect, (reason, _) in broken_contributions().items()}


def test_the_golden_contribution_is_read_and_written_byte_for_byte() -> None:
    kept = (GOLDEN / "contribution.envelope").read_bytes()
    found = open_contribution(kept, SCOPE, TRUST)
    body = json.loads((GOLDEN / "contribution.json").read_text("utf-8"))
    assert found == Contribution.from_body(body)
    assert json.loads(json.dumps(found.to_body())) == body
    assert seal("contribution", found.to_body(), key_for(DEVICE)) == kept
    assert found.digest == Contribution.from_body(found.to_body()).digest
    assert found.digest.hex() == hash_of(split(kept)[1])


def test_the_golden_contribution_says_what_it_says() -> None:
    found = open_contribution((GOLDEN / "contribution.envelope").read_bytes(), SCOPE, TRUST)
    expected = contribution()
    assert found.facts == expected.facts
    assert found.gone == expected.gone
    assert [part.members for part in found.parts] == [part.members for part in expected.parts]
    assert np.array_equal(text_vector(found.facts[f"text/{BOLT}"].value), ROWS[1])
    assert found.claims["refusal/01k7000000000bbb"].content is not None
    assert found.claims["refusal/01k7000000000bbb"].content.start == 2


def test_each_defect_of_the_table_is_kept_and_no_other() -> None:
    assert sorted(BROKEN) == sorted(REASON)


@pytest.mark.parametrize("defect", sorted(BROKEN))
def test_a_broken_contribution_is_refused_for_its_reason(defect: str) -> None:
    box = Inbox(SCOPE, TRUST, Clock(now_ms=lambda: NOW_MS), lambda _: None)
    assert box.contribution(BROKEN[defect].read_bytes()) == REASON[defect]
    assert box.refused == {REASON[defect]: 1}
    assert box.used == 0
    assert box.ready() == []
    assert box.recent[-1].what


def test_every_reason_has_words() -> None:
    assert set(REASON.values()) <= set(REASONS)
    assert all(REASONS.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"fleet": "Farm"},
        {"fleet": ""},
        {"fleet": "a/b"},
        {"class_set": "a+b"},
        {"class_set": "x" * 65},
        {"space": SPACE.upper()},
        {"space": "5eed"},
        {"dim": 0},
        {"dim": 65_537},
    ],
)
def test_a_scope_holds_nothing_that_a_topic_cannot(changes: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as caught:
        Scope(**{"fleet": "farm", "class_set": "default", "space": SPACE, "dim": 3, **changes})
    assert caught.value.reason == "malformed"


def test_names_of_any_unicode_version_pass_and_control_characters_do_not() -> None:
    for text, good in (("螺栓", True), ("\U000e0fff", True), ("a\u2028b", False), ("\x85", False)):
        body = {**contribution().to_body(), "facts": {f"name/{BOLT}": [1, text]}}
        if good:
            assert Contribution.from_body(parse(split(envelope(body))[1])).facts
        else:
            with pytest.raises(Rejected, match="one line that can be printed"):
                Contribution.from_body(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@unhurried
@given(st.sampled_from(sorted(contribution().to_body())), JSON)
def test_any_other_value_of_a_key_is_refused_or_read_as_it_is(key: str, value: Any) -> None:
    body = json.loads(json.dumps(contribution().to_body()))
    body[key] = value
    try:
        found = Contribution.from_body(body)
    except Rejected:
        return
    assert json.loads(json.dumps(found.to_body())) == body


def test_what_a_light_device_says_passes_its_own_check() -> None:
    one = ledger(DEVICES[0])
    one.teach("hex bolt", ROWS)
    one.rename("hex bolt", "bolt")
    one.teach_text("bolt", "a photo of a bolt", ROWS[0])
    one.keep("bolt")
    for class_id in one.unsent():
        own = one.own(class_id)
        assert Contribution.from_body(json.loads(split(own.envelope)[1])) == own.contribution
