"""What an owner and a device sign keeps its form: the bytes of today are read tomorrow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.errors import Rejected
from accrue.sync.content import Pointer
from accrue.sync.manifest import (
    Canary,
    Coming,
    Listed,
    ListedClass,
    Manifest,
    ManifestHead,
    Remark,
    Version,
)
from accrue.sync.report import NextKey, Report, SetReport
from accrue.sync.roster import KeyWindow, Member, Roster, RosterTrust
from accrue.sync.signed import canonical, parse, seal, split

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DEVICE_KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PUBLIC = OWNER.public_key().public_bytes_raw()
DEVICE_PUBLIC = DEVICE_KEY.public_key().public_bytes_raw()
DOCK = "d0ck00000003"
BOLT = "1b0c1b5e-0000-5000-8000-000000000001"
SPACE = "ab" * 32
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "documents" / "golden.json"

MEMBER = Member("dock-3", (KeyWindow(DEVICE_PUBLIC, 5, 900), KeyWindow(PUBLIC, 800)), revoked=950)
ROSTER = Roster("plant", 7, PUBLIC, {DOCK: MEMBER}, {"tools": "curated"})
VERSION = Version(2, Pointer("cd" * 32, 1234))
HEAD = ManifestHead(
    "plant", "tools", SPACE, 16, 9, VERSION, Canary(10, "5a17", Version(3, Pointer("ef" * 32, 99)))
)
MANIFEST = Manifest(
    "plant",
    "tools",
    SPACE,
    16,
    2,
    {BOLT: ListedClass(Pointer("12" * 32, 345), (Listed(DOCK, 77, "34" * 32),))},
    {(DOCK, BOLT): 78},
    (Remark(DOCK, BOLT, 78, False, "too dark"),),
    1,
    "spring",
)
REPORT = Report(
    "plant",
    DOCK,
    901,
    "0.1.0",
    7,
    1,
    42,
    {"forged": 2},
    (SetReport("tools", SPACE, "56" * 32, 3, 15, 1, 2, "worse", 9100, 9300, 15, 1),),
    NextKey(PUBLIC, 800),
)
COMING = Coming("plant", "tools", SPACE, 16, "78" * 32, "on the stick", 3)


def bodies() -> dict[str, str]:
    """The signed bodies and the contents, as text."""
    import zlib

    return {
        "roster head": split(ROSTER.sealed(OWNER)[0])[1].decode(),
        "roster": canonical(ROSTER.to_body()).decode(),
        "manifest head": split(HEAD.sealed(OWNER))[1].decode(),
        "manifest": zlib.decompress(MANIFEST.packed()).decode(),
        "report": split(REPORT.sealed(DEVICE_KEY))[1].decode(),
        "coming": split(COMING.sealed(OWNER))[1].decode(),
    }


def test_the_bytes_are_those_that_were_kept() -> None:
    kept = json.loads(GOLDEN.read_text())
    made = bodies()
    for name in ("roster head", "manifest head"):  # the digest of compressed bytes is zlib's own
        for one in (kept, made):
            body = parse(one[name].encode())
            body.pop("sha256", None), body.pop("bytes", None)
            one[name] = body
    assert made == kept


def test_a_kept_roster_is_read() -> None:
    kept = json.loads(GOLDEN.read_text())
    assert Roster.from_body(parse(kept["roster"].encode())) == ROSTER


def test_documents_come_back_as_they_were() -> None:
    assert ManifestHead.open(HEAD.sealed(OWNER), PUBLIC) == HEAD
    assert Coming.open(COMING.sealed(OWNER), PUBLIC) == COMING
    packed = MANIFEST.packed()
    assert Manifest.open(packed, HEAD, Pointer.to(packed)) == MANIFEST
    trust = RosterTrust(
        Roster("plant", 1, PUBLIC, {DOCK: Member("d", (KeyWindow(DEVICE_PUBLIC),))})
    )
    assert Report.open(REPORT.sealed(DEVICE_KEY), trust, "plant", DOCK) == REPORT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fleet": "other"}, "wrong-scope"),
        ({"device": "gate00000001"}, "wrong-scope"),
        ({"accrue": "report/2"}, "malformed"),
        ({"refused": {"forged": "two"}}, "malformed"),
        ({"lag_ms": "slow"}, "malformed"),
        ({"sets": [{}]}, "malformed"),
        ({"next_key": ["ff", 1]}, "malformed"),
        ({"next_key": [PUBLIC.hex(), -1]}, "malformed"),
        ({"more": 1}, "malformed"),
    ],
)
def test_a_report_of_another_form_is_refused(change: dict[str, object], reason: str) -> None:
    trust = RosterTrust(
        Roster("plant", 1, PUBLIC, {DOCK: Member("d", (KeyWindow(DEVICE_PUBLIC),))})
    )
    body = {**parse(split(REPORT.sealed(DEVICE_KEY))[1]), **change}
    with pytest.raises(Rejected) as raised:
        Report.open(seal("report", body, DEVICE_KEY), trust, "plant", DOCK)
    assert raised.value.reason == reason


def test_a_report_by_another_key_is_refused() -> None:
    trust = RosterTrust(Roster("plant", 1, PUBLIC, {DOCK: Member("d", (KeyWindow(PUBLIC),))}))
    with pytest.raises(Rejected) as raised:
        Report.open(REPORT.sealed(DEVICE_KEY), trust, "plant", DOCK)
    assert raised.value.reason == "forged"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"accrue": "coming/1"},
        {"stable": {"number": 0, "sha256": "cd" * 32, "bytes": 1}},
        {"stable": {"number": 1, "sha256": "cd", "bytes": 1}},
        {"stable": {"number": 1, "sha256": "cd" * 32, "bytes": 1 << 40}},
        {"canary": {"percent": 101, "salt": "", "version": VERSION.to_body()}},
        {"canary": {"percent": 10, "salt": "x" * 65, "version": VERSION.to_body()}},
        {"canary": {"percent": 10, "salt": ""}},
        {"more": 1},
    ],
)
def test_a_manifest_head_of_another_form_is_refused(change: dict[str, object]) -> None:
    body = {**parse(split(HEAD.sealed(OWNER))[1]), **change}
    with pytest.raises(Rejected) as raised:
        ManifestHead.open(seal("manifest", body, OWNER), PUBLIC)
    assert raised.value.reason == "malformed"


def test_an_announcement_is_no_manifest_and_a_manifest_no_announcement() -> None:
    for open_, envelope in (
        (ManifestHead.open, COMING.sealed(OWNER)),
        (Coming.open, HEAD.sealed(OWNER)),
    ):
        with pytest.raises(Rejected):
            open_(envelope, PUBLIC)
