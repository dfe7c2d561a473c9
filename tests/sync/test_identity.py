"""A device's private folder: id and keys, the fleet it belongs to, and what others may not read."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from accrue.errors import Conflict, FormatError, FutureVersion, NotFound, StoreFull, UsageError
from accrue.sync.identity import (
    DEVICE_ID,
    PRIVATE,
    Broker,
    Identity,
    Membership,
    clean_fleet,
    fingerprint,
    leave,
    new_device_id,
    require_private,
    write_private,
)

BROKER = Broker("10.0.0.5", 8883, True, "0123456789ab", "a secret", "CERTIFICATE")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_device_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "fleet")
    again = Identity.load_or_create(tmp_path / "fleet")
    assert again.device == first.device
    assert again.public == first.public
    assert again.box_public == first.box_public
    assert DEVICE_ID.fullmatch(first.device)


def test_device_ids_hold_no_letter_that_is_mistaken_for_another() -> None:
    assert not set("ilou") & set("".join(new_device_id() for _ in range(200)))


def test_what_is_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    Identity.load_or_create(folder)
    Membership("plant", bytes(32), "dock-3", BROKER).save(folder)
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
        ["identity.json", "membership.json", "password", "ca.crt"], 0o600
    )


def test_a_membership_comes_back_as_it_was_and_shows_no_password(tmp_path: Path) -> None:
    found = Membership("plant", bytes(range(32)), "dock-3", BROKER)
    found.save(tmp_path)
    assert Membership.load(tmp_path) == found
    assert "a secret" not in repr(found)
    assert "a secret" not in (tmp_path / "membership.json").read_text()


def test_leaving_keeps_the_identity_alone(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path)
    Membership("plant", bytes(32), "dock-3", BROKER).save(tmp_path)
    leave(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]
    assert Identity.load(tmp_path).device == identity.device
    with pytest.raises(NotFound, match="this device is in no fleet") as raised:
        Membership.load(tmp_path)
    assert raised.value.hint == "join one: accrue fleet join CODE --broker HOST"


def test_a_new_key_waits_until_the_roster_has_it(tmp_path: Path) -> None:
    identity = Identity.create()
    waiting = identity.with_following(1000)
    assert waiting.public == identity.public
    assert waiting.with_following(2000) == waiting, "one that waits is not made again"
    waiting.save(tmp_path)
    waiting = Identity.load(tmp_path)
    assert waiting.following is not None
    assert waiting.settled(frozenset([identity.public])).public == identity.public
    settled = waiting.settled(frozenset([identity.public, waiting.following.public]))
    assert settled.public == waiting.following.public
    assert settled.key_at(999).public_key().public_bytes_raw() == identity.public
    assert settled.key_at(1000).public_key().public_bytes_raw() == settled.public
    without_old = settled.settled(frozenset([settled.public]))
    assert [held.public for held in without_old.keys] == [settled.public]


def test_a_full_disk_leaves_the_key_that_was_there(tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_private(tmp_path / "key", b"old")
    with pytest.raises(StoreFull):
        write_private(tmp_path / "key", b"new", steps=replace(PRIVATE, fsync=full))
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no device identity: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "is no device identity: not an object"),
        (b'{"accrue": "roster/1"}', 'is no device identity: no "accrue": "identity/1"'),
        (b'{"accrue": "identity/1"}', "is no device identity: 'following'"),
    ],
)
def test_a_damaged_identity_is_named_and_left_alone(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "identity.json"
    path.write_bytes(content)
    with pytest.raises(FormatError) as raised:
        Identity.load_or_create(tmp_path)
    assert raised.value.message == f"{path} {said}"
    assert path.read_bytes() == content


def test_an_identity_of_a_newer_accrue_is_not_touched(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path)
    path = tmp_path / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accrue": "identity/2"}))
    with pytest.raises(FutureVersion) as raised:
        Identity.load(tmp_path)
    assert raised.value.message == f"{path} is of format 2; this Accrue reads up to 1"


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    path.write_text("secret")
    path.chmod(0o640)
    with pytest.raises(Conflict) as raised:
        require_private(path)
    assert raised.value.message == f"{path} may be read by others (mode 0640); expected 0600"
    assert raised.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("name", ["", "Plant", "plant 2", "-", "-plant", "p" * 33, "plant/#"])
def test_a_fleet_id_that_no_topic_can_hold_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected 1 to 32 of a-z, 0-9 and -"):
        clean_fleet(name)


def test_a_fingerprint_is_short_enough_to_read_out() -> None:
    assert fingerprint(bytes(32)) == "6668-7aad-f862-bd77"
