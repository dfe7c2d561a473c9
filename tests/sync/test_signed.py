"""Canonical JSON has one form, and a signature counts for one kind of body alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet_cases import DEVICES, key_for, unhurried
from hypothesis import given
from hypothesis import strategies as st

from accrue.errors import Rejected
from accrue.sync.signed import (
    BODY_LIMIT_BYTES,
    DEPTH_LIMIT,
    KINDS,
    Kind,
    canonical,
    open_sealed,
    parse,
    seal,
    split,
)

KEY = key_for(DEVICES[0])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@unhurried
@given(VALUES)
def test_what_was_written_is_read_back(value: Any) -> None:
    assert parse(canonical(value)) == value


@unhurried
@given(VALUES, st.randoms())
def test_the_order_of_keys_changes_nothing(value: Any, random: Any) -> None:
    def shuffled(one: Any) -> Any:
        if isinstance(one, list):
            return [shuffled(each) for each in one]
        if isinstance(one, dict):
            items = [(key, shuffled(each)) for key, each in one.items()]
            random.shuffle(items)
            return dict(items)
        return one

    assert canonical(shuffled(value)) == canonical(value)


@unhurried
@given(st.binary(max_size=200) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_whatever_parses_is_canonical(data: bytes) -> None:
    try:
        value = parse(data)
    except Rejected:
        return
    assert canonical(value) == data


def test_the_form_by_example() -> None:
    value = {"ö": [1, -2, True, None, 'é"\\\n\x7f'], "a": {}, "Z": "/"}
    assert canonical(value).decode() == '{"Z":"/","a":{},"ö":[1,-2,true,null,"é\\"\\\\\\n\x7f"]}'


@pytest.mark.parametrize("value", [1.5, {1: 2}, b"bytes", {"a": {1, 2}}, float("nan")])
def test_what_has_no_canonical_form_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)


def test_depth_and_integers_are_bounded() -> None:
    nested: Any = 1
    for _ in range(DEPTH_LIMIT):
        nested = [nested]
    assert parse(canonical(nested)) == nested
    for value in ([nested], 2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match=r"deeper|64 bits"):
            canonical(value)
        with pytest.raises(Rejected) as caught:
            parse(json.dumps(value, separators=(",", ":")).encode())
        assert caught.value.reason == "malformed"


@pytest.mark.parametrize("kind", KINDS)
def test_an_envelope_opens_with_its_key_and_kind_and_with_no_other(kind: Kind) -> None:
    envelope = seal(kind, {"a": 1}, KEY)
    assert open_sealed(kind, envelope, KEY.public_key()) == {"a": 1}
    with pytest.raises(Rejected) as caught:
        open_sealed(kind, envelope, key_for(DEVICES[1]).public_key())
    assert caught.value.reason == "forged"
    for other in set(KINDS) - {kind}:
        with pytest.raises(Rejected) as caught:
            open_sealed(other, envelope, KEY.public_key())
        assert caught.value.reason == "forged"


def test_every_bit_of_an_envelope_counts() -> None:
    envelope = seal("report", {"a": 1}, KEY)
    for bit in range(8 * len(envelope)):
        altered = bytearray(envelope)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected) as caught:
            open_sealed("report", bytes(altered), KEY.public_key())
        assert caught.value.reason == "forged"


def test_sizes_are_bounded_before_anything_is_read() -> None:
    for size, reason in (
        (0, "malformed"),
        (64, "malformed"),
        (64 + BODY_LIMIT_BYTES + 1, "oversized"),
    ):
        with pytest.raises(Rejected) as caught:
            split(bytes(size))
        assert caught.value.reason == reason
    with pytest.raises(Rejected) as caught:
        parse(b"1" * 11, limit=10)
    assert caught.value.reason == "oversized"
    with pytest.raises(Rejected, match=r"report of 129,026 bytes; at most 129,024") as caught:
        seal("report", "x" * BODY_LIMIT_BYTES, KEY)
    assert caught.value.reason == "oversized"
