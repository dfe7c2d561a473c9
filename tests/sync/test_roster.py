"""The roster: who may say what, and that nobody but the owner can change that or turn it back."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings

from accrue.errors import Conflict, NotFound, Rejected, UsageError
from accrue.sync.content import Pointer, pack
from accrue.sync.roster import (
    KeyWindow,
    Member,
    Roster,
    RosterTrust,
    clean_device_name,
    open_roster,
    rotated,
)
from accrue.sync.signed import seal, signed_bytes

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWNER_PUBLIC = OWNER.public_key().public_bytes_raw()
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(1, 5)]
PUBLIC = [key.public_key().public_bytes_raw() for key in KEYS]
DOCK, GATE = "d0ck00000003", "gate00000001"
BODY = b"{}"


def member(key: int = 0, **other: object) -> Member:
    return replace(Member("dock-3", (KeyWindow(PUBLIC[key]),)), **other)  # type: ignore[arg-type]


def roster(version: int = 1, **devices: Member) -> Roster:
    return Roster("plant", version, OWNER_PUBLIC, devices, {"tools": "curated"})


def verdict(trust: RosterTrust, revision: int, key: int = 0, device: str = DOCK) -> str | None:
    data = signed_bytes("contribution", BODY)
    return trust.verify(device, revision, KEYS[key].sign(data), data)


def test_a_roster_comes_back_as_it_was_signed() -> None:
    made = roster(7, **{DOCK: member(revoked=5, forgotten=3), GATE: member(1, role="relay")})
    head, content = made.sealed(OWNER)
    assert open_roster(head, content, OWNER_PUBLIC, "plant") == made


def test_a_roster_of_a_thousand_devices_has_a_small_head() -> None:
    made = roster(1, **{f"{i:012}": member() for i in range(1000)})
    head, content = made.sealed(OWNER)
    assert len(head) < 400
    assert len(content) < 40_000
    assert open_roster(head, content, OWNER_PUBLIC) == made


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"fleet": "other"}, "wrong-scope", "roster of fleet other; expected plant"),
        ({"owner": PUBLIC[0]}, "forged", "roster whose content is not what its head says"),
    ],
)
def test_a_roster_of_another_fleet_or_owner_is_refused(
    change: dict[str, object], reason: str, said: str
) -> None:
    head, content = replace(roster(), **change).sealed(OWNER)  # type: ignore[arg-type]
    with pytest.raises(Rejected) as raised:
        open_roster(head, content, OWNER_PUBLIC, "plant")
    assert (raised.value.reason, raised.value.message) == (reason, said)


def test_nobody_but_the_owner_can_sign_a_roster() -> None:
    head, content = roster().sealed(KEYS[0])
    with pytest.raises(Rejected, match="signature that does not fit") as raised:
        open_roster(head, content, OWNER_PUBLIC)
    assert raised.value.reason == "forged"


def test_content_that_the_head_does_not_name_is_refused() -> None:
    head, _ = roster(1).sealed(OWNER)
    _, other = roster(1, **{DOCK: member()}).sealed(OWNER)
    with pytest.raises(Rejected, match="is not what was signed") as raised:
        open_roster(head, other, OWNER_PUBLIC)
    assert raised.value.reason == "forged"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 0}, "roster: expected a fleet id and a version of 1 or more"),
        ({"devices": {"dock": {}}}, "roster, devices: expected device ids of 12 characters"),
        ({"sets": {"tools": "free"}}, "roster, sets: expected open or curated"),
        ({"accrue": "roster/2"}, "roster, accrue: expected roster/1"),
        ({"more": 1}, "roster: expected an object with accrue, fleet, version"),
        ({"version": "1"}, "roster, version: expected int"),
        ({"owner": "ff"}, "key: expected 32 bytes in hex"),
        (
            {"devices": {DOCK: {**member().to_body(), "keys": []}}},
            "device in a roster: expected a name and 1 to 32 keys",
        ),
        (
            {"devices": {DOCK: {**member().to_body(), "role": "king"}}},
            "device in a roster, role: expected device or relay",
        ),
        (
            {"devices": {DOCK: {**member().to_body(), "revoked": -1}}},
            "device in a roster, revoked: expected a stamp or null",
        ),
    ],
)
def test_a_roster_of_another_form_is_refused(change: dict[str, object], said: str) -> None:
    content = pack({**roster().to_body(), **change})
    body = {"accrue": "roster/1", "fleet": "plant", "version": 1, **Pointer.to(content).to_body()}
    with pytest.raises(Rejected) as raised:
        open_roster(seal("roster", body, OWNER), content, OWNER_PUBLIC)
    assert raised.value.reason == "malformed"
    assert raised.value.message.startswith(said)


def test_who_is_not_in_the_roster_is_unknown() -> None:
    assert verdict(RosterTrust(), 1) == "unknown-device"
    assert verdict(RosterTrust(roster()), 1) == "unknown-device"
    assert verdict(RosterTrust(roster(1, **{GATE: member()})), 1) == "unknown-device"


def test_a_device_is_taken_by_its_own_key_alone() -> None:
    trust = RosterTrust(roster(1, **{DOCK: member(), GATE: member(1)}))
    assert verdict(trust, 1) is None
    assert verdict(trust, 1, key=1) == "forged"
    assert verdict(trust, 1, key=1, device=GATE) is None


def test_versions_of_a_roster_only_rise() -> None:
    trust = RosterTrust()
    assert trust.renew(roster(2, **{DOCK: member()}))
    assert not trust.renew(roster(2, **{DOCK: member()}))
    with pytest.raises(Rejected, match=r"roster of version 1; version 2 was seen") as old:
        trust.renew(roster(1))
    assert old.value.reason == "replayed"
    with pytest.raises(Rejected, match="two rosters of version 2") as other:
        trust.renew(roster(2))
    assert other.value.reason == "forged"
    assert trust.version == 2
    assert verdict(trust, 1) is None


@settings(max_examples=200, deadline=None)
@given(
    until=st.integers(0, 40),
    overlap=st.integers(0, 10),
    revoked=st.none() | st.integers(0, 40),
    forgotten=st.none() | st.integers(0, 40),
    revision=st.integers(0, 50),
    key=st.sampled_from([0, 1, 2]),
)
def test_rotation_and_revocation_go_by_the_stamps(
    until: int,
    overlap: int,
    revoked: int | None,
    forgotten: int | None,
    revision: int,
    key: int,
) -> None:
    """A revision counts iff a key of the device covers it and no cut does, whatever the order."""
    start = max(0, until - overlap)
    found = rotated(member(), PUBLIC[1], start, until)
    trust = RosterTrust(roster(1, **{DOCK: replace(found, revoked=revoked, forgotten=forgotten)}))
    signed = {0: revision <= until, 1: revision >= start, 2: False}[key]
    cut = (revoked is not None and revision > revoked) or (
        forgotten is not None and revision <= forgotten
    )
    expected = "revoked" if cut else None if signed else "forged"
    assert verdict(trust, revision, key) == expected


@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.sampled_from(["add", "revoke", "remove", "policy"]), max_size=12))
def test_each_change_makes_the_next_version_and_leaves_the_one_before(order: list[str]) -> None:
    present, seen = roster(1), RosterTrust()
    seen.renew(present)
    for step in order:
        before = present.to_body()
        old = present
        if step == "policy":
            present = present.with_policy("tools", "open")
        else:
            value = {"add": member(), "revoke": member(revoked=9), "remove": None}[step]
            present = present.with_device(DOCK, value)
        assert present.version == old.version + 1
        assert old.to_body() == before
        assert seen.renew(present)
        with pytest.raises(Rejected):
            seen.renew(old)


def test_a_key_is_added_once() -> None:
    with pytest.raises(Conflict) as raised:
        rotated(member(), PUBLIC[0], 1, 2)
    assert raised.value.message == 'device "dock-3" has that key already'


def test_a_device_is_found_by_name_or_id() -> None:
    found = roster(1, **{DOCK: member(), GATE: member(1, name="gate")})
    assert found.find("gate") == found.find(GATE) == GATE
    with pytest.raises(NotFound) as missing:
        found.find("nobody")
    assert missing.value.message == 'no device "nobody" in the roster of fleet plant'
    twice = roster(1, **{DOCK: member(), GATE: member(1)})
    with pytest.raises(Conflict) as double:
        twice.find("dock-3")
    assert double.value.message == f'2 devices are called "dock-3": {DOCK}, {GATE}'


@pytest.mark.parametrize("name", ["", "   ", "a\x07b", "x" * 65])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected 1 to 64 characters of one line"):
        clean_device_name(name)
