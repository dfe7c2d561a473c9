"""Class sets in files: whole and as they were signed, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from owner_cases import SCOPE, rows

from accrue import errors
from accrue.errors import AccrueError, FormatError, FutureVersion, NotFound, Rejected
from accrue.sync.archive import open_parcel, parcel, read_set, write_set
from accrue.sync.clock import Clock
from accrue.sync.ledger import Heard
from accrue.sync.replica import MemoryLedger

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SAMPLES = Path(__file__).resolve().parents[1] / "data" / "classset"
CLASS_SETS = sorted(path for path in SAMPLES.glob("*") if path.is_dir())


def heard(device: str = "d0ck00000003") -> list[Heard]:
    ledger = MemoryLedger(SCOPE, device, KEY, Clock(now_ms=lambda: 1_700_000_000_000))
    ledger.teach("bolt", rows(1))
    ledger.teach("bolt", rows(2))
    ledger.teach("gear", rows(1, kind=1))
    said = [ledger.own(one) for one in ledger.owned()]
    return [Heard(one.contribution, one.envelope, one.parts) for one in said]


def write(path: Path, found: list[Heard] | None = None) -> int:
    return write_set(
        path,
        SCOPE,
        heard() if found is None else found,
        signer="d0ck00000003",
        key=KEY,
        at_ms=1_700_000_000_000,
    )


def test_a_file_holds_what_was_signed_with_all_its_parts(tmp_path: Path) -> None:
    made = heard()
    size = write(tmp_path / "x.set", made)
    assert size == (tmp_path / "x.set").stat().st_size
    found = read_set(tmp_path / "x.set")
    assert (found.scope, found.signer, found.at_ms) == (SCOPE, "d0ck00000003", 1_700_000_000_000)
    assert found.key == KEY.public_key().public_bytes_raw()
    assert sorted(found.heard, key=lambda h: h.envelope) == sorted(made, key=lambda h: h.envelope)


def test_an_empty_class_set_can_be_handed_over(tmp_path: Path) -> None:
    write(tmp_path / "x.set", [])
    assert read_set(tmp_path / "x.set").heard == ()


def test_a_parcel_does_not_depend_on_the_order_of_what_it_holds() -> None:
    bolts = [h for d in ("a" * 12, "b" * 12) for h in heard(d)[:1]]
    assert parcel(bolts) == parcel(bolts[::-1])
    assert sorted(h.envelope for h in open_parcel(parcel(bolts))) == sorted(
        h.envelope for h in bolts
    )


def test_a_parcel_without_a_part_is_refused() -> None:
    one = heard()[0]
    with pytest.raises(Rejected, match="parcel without part") as raised:
        open_parcel(parcel([Heard(one.contribution, one.envelope, {})]))
    assert raised.value.reason == "forged"


def test_a_parcel_with_a_part_that_nothing_names_is_refused() -> None:
    one = heard()[0]
    more = Heard(one.contribution, one.envelope, {**one.parts, "0" * 64: b"payload"})
    with pytest.raises(Rejected, match="no part that nothing names"):
        open_parcel(parcel([more]))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_file_with_any_bit_changed_is_refused(tmp_path: Path, at: int, bit: int) -> None:
    path = tmp_path / "x.set"
    if not path.exists():
        write(path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    changed = tmp_path / "changed.set"
    changed.write_bytes(data)
    with pytest.raises(FormatError):
        read_set(changed)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(length=st.integers(0))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.set"
    if not path.exists():
        write(path)
    data = path.read_bytes()
    cut = tmp_path / "cut.set"
    cut.write_bytes(data[: length % len(data)])
    with pytest.raises(FormatError):
        read_set(cut)


@pytest.mark.parametrize("folder", CLASS_SETS, ids=lambda path: path.name)
def test_a_kept_defect_is_refused_with_its_own_words(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    path = folder / "classes.set"
    with pytest.raises(AccrueError) as raised:
        read_set(path)
    assert type(raised.value) is getattr(errors, expected["kind"])
    assert raised.value.message.replace(str(path), "FILE") == expected["message"]


def test_every_kind_of_defect_is_kept() -> None:
    assert [path.name for path in CLASS_SETS] == [
        "altered-content",
        "forged",
        "future-version",
        "not-one",
        "truncated",
        "wrong-scope",
    ]


def test_a_file_of_the_first_version_is_read_by_this_one() -> None:
    found = read_set(SAMPLES / "good.set")
    assert sorted({h.contribution.device for h in found.heard}) == ["d0ck00000003"]
    assert len(found.heard) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as raised:
        read_set(tmp_path / "x.set")
    assert raised.value.message == f"no file {tmp_path / 'x.set'}"
    with pytest.raises(AccrueError):
        read_set(tmp_path)


def test_the_future_is_told_apart_from_damage() -> None:
    with pytest.raises(FutureVersion) as raised:
        read_set(SAMPLES / "future-version" / "classes.set")
    assert raised.value.hint == "update Accrue; nothing was changed"
