"""The inbox: every reason of refusal, content in any order, bounded memory, and fuzz."""

from __future__ import annotations

import json
import random
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_cases import (
    DEVICES,
    NOW_MS,
    SCOPE,
    TRUST,
    everything,
    inbox,
    key_for,
    ledger,
    require_learned,
    rows,
    tell,
    unhurried,
)
from hypothesis import given
from hypothesis import strategies as st
from make_samples import broken_contributions, broken_parts, envelope

from accrue.errors import Rejected
from accrue.store.names import class_id
from accrue.sync.chunks import HEADER_BYTES, Assembly, cut
from accrue.sync.clock import SKEW_MS, Clock
from accrue.sync.contribution import Contribution, Member, Part
from accrue.sync.inbox import RECENT_REFUSALS, Cache, Inbox
from accrue.sync.ledger import Own
from accrue.sync.parts import RAW_LIMIT_BYTES, hash_of, pack_rows
from accrue.sync.replica import MemoryLedger
from accrue.sync.signed import ENVELOPE_LIMIT_BYTES, split
from accrue.sync.trust import REASONS, KnownKeys, Reason

A, B, C, D = DEVICES
BOLT = class_id("default", "bolt")


def taught(device: str, *seeds: int, name: str = "bolt", n: int = 1) -> MemoryLedger:
    one = ledger(device)
    for seed in seeds:
        one.teach(name, rows(seed, n))
    return one


def chunks(own: Own, size: int = 1_000) -> Iterator[tuple[str, str, int, bytes]]:
    for sha256, data in own.parts.items():
        for i, chunk in enumerate(cut(data, size)):
            yield own.contribution.device, sha256, i, chunk


class Revoking(KnownKeys):
    """A roster in which a device was revoked."""

    def __init__(self) -> None:
        super().__init__({device: key_for(device).public_key() for device in DEVICES})
        self.version = 1
        self.revoked = ""

    def verify(self, device: str, revision: int, signature: bytes, data: bytes) -> Reason | None:
        if device == self.revoked:
            return "revoked"
        return super().verify(device, revision, signature, data)


# ---- refusals ----------------------------------------------------------------------------------


def _says(box: Inbox, payload: bytes, *topic: str) -> Reason | None:
    return box.contribution(payload, *topic)


def _refused_as() -> dict[Reason, Callable[[], tuple[Inbox, Reason | None]]]:
    """How each reason comes about, from an inbox that is otherwise content."""
    samples = {**broken_contributions(), **broken_parts()}

    def sample(defect: str) -> Callable[[], tuple[Inbox, Reason | None]]:
        def run() -> tuple[Inbox, Reason | None]:
            box = inbox(ledger(D))
            return box, box.contribution(samples[defect][1])

        return run

    def replayed() -> tuple[Inbox, Reason | None]:
        box, own = inbox(ledger(D)), taught(A, 1).own(BOLT)
        assert box.contribution(own.envelope) is None
        return box, box.contribution(own.envelope)

    def revoked() -> tuple[Inbox, Reason | None]:
        trust = Revoking()
        trust.revoked = A
        box = inbox(ledger(D), trust)
        return box, box.contribution(taught(A, 1).own(BOLT).envelope)

    def oversized() -> tuple[Inbox, Reason | None]:
        box = inbox(ledger(D))
        return box, box.contribution(bytes(ENVELOPE_LIMIT_BYTES + 1))

    def not_finite() -> tuple[Inbox, Reason | None]:
        box = inbox(ledger(D))
        data = samples["part-row-minus-32768"][1]
        return box, box.chunk(A, hash_of(data), 0, cut(data)[0])

    def future() -> tuple[Inbox, Reason | None]:
        ahead = ledger(A, now_ms=NOW_MS + SKEW_MS + 1)
        ahead.teach("bolt", rows(1))
        box = inbox(ledger(D))
        return box, box.contribution(ahead.own(BOLT).envelope)

    def wrong_scope() -> tuple[Inbox, Reason | None]:
        box = inbox(ledger(D))
        return box, box.contribution(taught(A, 1).own(BOLT).envelope, B, BOLT)

    return {
        "forged": sample("signature-altered"),
        "unknown-device": sample("stranger"),
        "revoked": revoked,
        "replayed": replayed,
        "future": future,
        "oversized": oversized,
        "not-finite": not_finite,
        "wrong-space": sample("other-space"),
        "wrong-scope": wrong_scope,
        "malformed": sample("unknown-key"),
    }


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_is_counted_and_leaves_nothing_behind(reason: Reason) -> None:
    box, found = _refused_as()[reason]()
    assert found == reason
    assert box.refused == {reason: 1}
    assert box.recent[-1].reason == reason
    assert box.waiting() == (reason == "replayed")
    assert box.ready() == []


def test_a_device_ten_minutes_ahead_is_still_heard() -> None:
    ahead = ledger(A, now_ms=NOW_MS + SKEW_MS)
    ahead.teach("bolt", rows(1))
    assert inbox(ledger(D)).contribution(ahead.own(BOLT).envelope) is None


def test_what_the_ledger_knows_already_is_a_replay() -> None:
    a, d = taught(A, 1), ledger(D)
    tell(d, a.own(BOLT))
    assert inbox(d).contribution(a.own(BOLT).envelope) == "replayed"


def test_the_own_contribution_is_never_taken_from_others() -> None:
    a = taught(A, 1)
    newer = taught(A, 1, 2)
    assert inbox(a).contribution(newer.own(BOLT).envelope) == "replayed"


def test_the_last_refusals_are_kept_and_no_more() -> None:
    box = inbox(ledger(D))
    for i in range(RECENT_REFUSALS + 5):
        box.contribution(b"x" * i, f"device {i}", BOLT)
    assert len(box.recent) == RECENT_REFUSALS
    assert box.recent[-1].device == f"device {RECENT_REFUSALS + 4}"


# ---- content -----------------------------------------------------------------------------------


@unhurried
@given(st.randoms(use_true_random=False), st.integers(HEADER_BYTES + 1, 60))
def test_contributions_and_chunks_come_in_any_order_and_number(
    order: random.Random, size: int
) -> None:
    told = [taught(A, 1, 2), taught(B, 3, n=4), taught(C, 1)]
    messages: list[Callable[[Inbox], Reason | None]] = []
    for each in told:
        own = each.own(BOLT)
        messages += [lambda box, e=own.envelope: box.contribution(e)]
        messages += [lambda box, c=c: box.chunk(*c) for c in chunks(own, size)]
    stream = messages * 2
    order.shuffle(stream)
    d = ledger(D)
    box = inbox(d)
    for message in stream:
        assert message(box) in (None, "replayed")
        d.hear(box.ready())
    expected = ledger(D)
    tell(expected, *(each.own(BOLT) for each in told))
    assert d.view().digest() == expected.view().digest()
    assert d.state().n == 7
    assert box.wanted() == set()


def test_what_is_missing_is_wanted_until_it_is_there() -> None:
    own = taught(A, 1, 2).own(BOLT)
    box = inbox(ledger(D))
    box.contribution(own.envelope)
    assert box.wanted() == {(A, sha256) for sha256 in own.parts}
    assert box.ready() == []
    for chunk in chunks(own):
        box.chunk(*chunk)
    assert box.wanted() == set()
    (heard,) = box.ready()
    assert heard.parts == own.parts
    assert heard.envelope == own.envelope
    assert box.used == 0


def test_a_newer_revision_takes_the_place_of_one_that_waits() -> None:
    a = taught(A, 1)
    first = a.own(BOLT)
    a.teach("bolt", rows(2))
    second = a.own(BOLT)
    box = inbox(ledger(D))
    box.contribution(first.envelope)
    for chunk in chunks(first):
        box.chunk(*chunk)
    box.contribution(second.envelope)
    assert box.waiting() == 1
    assert box.contribution(first.envelope) == "replayed"
    for chunk in chunks(second):
        box.chunk(*chunk)
    (heard,) = box.ready()
    assert heard.contribution == second.contribution
    assert heard.parts == second.parts


def test_a_part_that_the_ledger_has_is_not_asked_for_again() -> None:
    a, d = taught(A, 1), ledger(D)
    tell(d, a.own(BOLT))
    a.teach("bolt", rows(2))
    box = inbox(d)
    box.contribution(a.own(BOLT).envelope)
    assert len(box.wanted()) == 1


def test_a_part_that_the_ledger_dropped_meanwhile_is_asked_for_after_all() -> None:
    a, b, d = taught(A, 1), taught(B, 1), ledger(D)
    tell(d, a.own(BOLT))
    box = inbox(d)
    box.contribution(b.own(BOLT).envelope)
    assert box.wanted() == set()
    a.undo()
    tell(d, a.own(BOLT))
    assert box.ready() == []
    assert len(box.wanted()) == 1
    for chunk in chunks(b.own(BOLT)):
        box.chunk(*chunk)
    d.hear(box.ready())
    assert d.state().n == 1


def _lying(device: str, n_rows: int, data: bytes) -> bytes:
    """A signed contribution that lists a part as of other rows than it has."""
    part = Part(hash_of(data), len(data), "rows", (Member("shot/01k7", n_rows, NOW_MS, 1),))
    said = Contribution(SCOPE, device, BOLT, NOW_MS << 16, parts=(part,))
    return envelope(said.to_body(), device=device)


def test_a_part_that_is_not_what_it_is_listed_as_refuses_the_contribution() -> None:
    data = pack_rows(rows(1))
    d = ledger(D)
    box = inbox(d)
    assert box.contribution(_lying(A, 2, data)) is None
    box.chunk(A, hash_of(data), 0, cut(data)[0])
    assert box.refused == {"malformed": 1}
    assert (box.ready(), box.waiting(), box.used) == ([], 0, 0)
    tell(d, taught(B, 1).own(BOLT))  # the same bytes, and now the ledger has them
    assert box.contribution(_lying(A, 2, data)) == "malformed"
    assert box.contribution(_lying(A, 1, data)) is None
    assert len(box.ready()) == 1


def test_another_device_cannot_spoil_a_part() -> None:
    own = taught(A, 1, n=20).own(BOLT)
    box = inbox(ledger(D))
    box.contribution(own.envelope)
    (sha256,) = own.parts
    good = list(chunks(own, 30))
    assert len(good) > 2
    box.chunk(*good[0])
    spoilt = [bytes(chunk[:4]) + b"!" * (len(chunk) - 4) for _, _, _, chunk in good]
    assert [box.chunk(B, sha256, i, chunk) for i, chunk in enumerate(spoilt)][-1] == "forged"
    for chunk in good[1:]:
        box.chunk(*chunk)
    assert len(box.ready()) == 1


def test_chunks_that_are_none_are_refused() -> None:
    box = inbox(ledger(D))
    sha256 = hash_of(b"")
    assert box.chunk(A, sha256, 0, b"") == "malformed"
    assert box.chunk(A, sha256, 0, b"\0\0\0\0") == "malformed"
    assert box.chunk(A, sha256, 1, b"\1\0\0\0x") == "malformed"
    assert box.chunk(A, sha256, -1, b"\1\0\0\0x") == "malformed"
    assert box.chunk(A, sha256, 0, b"\xff\xff\xff\xffx") == "malformed"
    assert box.chunk(A, "x" * 64, 0, b"\1\0\0\0x") == "malformed"
    assert box.chunk("d" * 65, sha256, 0, b"\1\0\0\0x") == "malformed"
    assert box.chunk(A, sha256, 0, b"\1\0\0\0x") == "forged"
    assert box.used == 0


def test_content_is_cut_and_put_together() -> None:
    for size, data in ((5, b"abc"), (6, b""), (100, bytes(1_000)), (96 * 1024, bytes(300_000))):
        pieces = cut(data, size)
        assert all(len(piece) <= size for piece in pieces)
        assembly: Assembly[str] = Assembly(10**6, 10**6)
        found = [assembly.add("x", i, piece) for i, piece in enumerate(pieces)]
        assert found[-1] == data
        assert found[:-1] == [None] * (len(pieces) - 1)
        assert assembly.used == 0
    with pytest.raises(ValueError, match="at most 65,536"):
        cut(bytes(70_000), 5)
    with pytest.raises(ValueError, match="at most 65,536"):
        cut(b"x", 4)


def test_a_content_of_another_cut_begins_anew() -> None:
    assembly: Assembly[str] = Assembly(10**6, 10**6)
    assembly.add("x", 0, cut(b"abcdef", 6)[0])
    found = [assembly.add("x", i, piece) for i, piece in enumerate(cut(b"abcdef", 7))]
    assert found == [None, b"abcdef"]
    assert (len(assembly), assembly.used) == (0, 0)


def test_a_content_above_the_limit_is_dropped() -> None:
    assembly: Assembly[str] = Assembly(10**6, 10)
    first, second, *_ = cut(bytes(30), 12)
    assembly.add("x", 0, first)
    with pytest.raises(Rejected) as caught:
        assembly.add("x", 1, second)
    assert caught.value.reason == "oversized"
    assert ("x" in assembly, assembly.used) == (False, 0)


# ---- bounds ------------------------------------------------------------------------------------


def test_memory_is_bounded_and_what_was_asked_for_stays_longest() -> None:
    own = taught(A, 1, n=40).own(BOLT)
    box = inbox(ledger(D), memory=20_000)
    box.contribution(own.envelope)
    good = list(chunks(own, 60))
    for chunk in good[:-1]:
        box.chunk(*chunk)
    for i in range(2_000):
        box.chunk(B, hash_of(b"%d" % i), 0, cut(bytes(100), 60)[0])
        assert box.used <= 20_000
    box.chunk(*good[-1])
    assert len(box.ready()) == 1
    assert not box.lost


def test_where_contributions_are_given_up_the_inbox_says_so() -> None:
    box = inbox(ledger(D), memory=30_000)
    a = ledger(A)
    for i in range(10):
        a.teach(f"class {i}", rows(i))
    for own in everything(a):
        assert box.contribution(own.envelope) is None
        assert box.used <= 30_000
    assert box.lost
    assert 0 < box.waiting() < 10
    for own in everything(a):
        box.contribution(own.envelope)
        for chunk in chunks(own):
            box.chunk(*chunk)
        assert box.used <= 30_000
    assert len(box.ready()) > 0


def test_no_member_fills_the_others_with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most that one may speak of are taken, changes of these too, and others as before."""
    monkeypatch.setattr("accrue.sync.inbox.CLASSES_LIMIT", 3)
    speaker, other, hearer = ledger(A), ledger(B), ledger(D)
    for number in range(5):
        speaker.teach(f"junk {number}", rows(number))
    said = everything(speaker)
    box = inbox(hearer)
    found = []
    for own in said:
        found.append(box.contribution(own.envelope))
        for sha256, data in own.parts.items():
            for i, chunk in enumerate(cut(data)):
                box.chunk(A, sha256, i, chunk)
        hearer.hear(box.ready())
    assert found == [None, None, None, "oversized", "oversized"]
    assert "speaks of more than 3 classes" in box.recent[-1].what
    speaker.teach("junk 0", rows(9))
    assert box.contribution(speaker.own(said[0].contribution.class_id).envelope) is None
    other.teach("bolt", rows(7))
    assert box.contribution(everything(other)[0].envelope) is None
    box.forget(A)
    assert box.contribution(said[4].envelope) is None


def test_restart_and_forget_drop_what_waits() -> None:
    box = inbox(ledger(D))
    for device in (A, B):
        own = taught(device, 1, n=9).own(BOLT)
        box.contribution(own.envelope)
        box.chunk(*next(chunks(own, 60)))
    box.forget(A)
    assert {device for device, _ in box.wanted()} == {B}
    assert box.contribution(taught(A, 1).own(BOLT).envelope) is None
    box.restart({})
    assert (box.used, box.waiting(), box.wanted()) == (0, 0, set())


# ---- the cache ---------------------------------------------------------------------------------


def test_inboxes_with_one_cache_share_what_was_decoded_and_change_nothing_else() -> None:
    cache, own = Cache(), taught(A, 1, 2).own(BOLT)
    heard = []
    for device in (B, C):
        one = ledger(device)
        box = inbox(one, cache=cache)
        assert box.contribution(own.envelope, A, BOLT) is None
        assert box.contribution(own.envelope, A, BOLT) == "replayed"
        for chunk in chunks(own):
            box.chunk(*chunk)
        heard += box.ready()
        one.hear(heard[-1:])
        assert one.state().n == 2
    assert heard[0].contribution is heard[1].contribution
    assert heard[0].contribution == own.contribution
    box = inbox(ledger(D), cache=cache)
    assert box.contribution(own.envelope, B, BOLT) == "wrong-scope"


def test_a_cached_contribution_is_verified_again_when_the_roster_changed() -> None:
    cache, trust, own = Cache(), Revoking(), taught(A, 1).own(BOLT)
    assert inbox(ledger(B), trust, cache=cache).contribution(own.envelope) is None
    trust.revoked, trust.version = A, 2
    assert inbox(ledger(C), trust, cache=cache).contribution(own.envelope) == "revoked"


def test_a_cache_is_bounded() -> None:
    cache = Cache(limit=3)
    box = inbox(ledger(D), cache=cache)
    a = ledger(A)
    for i in range(9):
        a.teach(f"class {i}", rows(i))
    for own in everything(a):
        box.contribution(own.envelope)
        for chunk in chunks(own):
            box.chunk(*chunk)
    assert len(cache._contributions) == len(cache._parts) == 3
    assert len(box.ready()) == 9


# ---- fuzz --------------------------------------------------------------------------------------


class Fuzzer:
    """Messages that nobody in the fleet has said, made of some that somebody has.

    Real ones with bytes altered, cut, repeated or spliced; JSON with values in the wrong places;
    well-formed contributions under signatures of strangers and of nobody; chunks, altered or of
    other content than their address says; and random bytes.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.stranger = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
        self.devices = [taught(one, *range(i, i + 3), n=2) for i, one in enumerate((A, B, C))]
        self.devices[0].rename("bolt", "hex bolt")
        self.devices[1].fold("bolt")
        self.known = [own for each in self.devices for own in everything(each)]
        self.chunks = [chunk for own in self.known for chunk in chunks(own, 40)]
        self.turn = 0
        self.broken = [data for _, data in broken_contributions().values()]
        self.broken_parts = [data for _, data in broken_parts().values()]

    def mutated(self, data: bytes) -> bytes:
        r = self.random
        found = bytearray(data)
        for _ in range(r.choice((1, 1, 2, 5, 50))):
            at = r.randrange(len(found) + 1)
            way = r.randrange(6)
            if way == 0 and at < len(found):
                found[at] ^= 1 << r.randrange(8)
            elif way == 1:
                del found[at : at + r.choice((1, 2, 10, 1_000))]
            elif way == 2:
                found[at:at] = r.randbytes(r.choice((1, 4, 40)))
            elif way == 3:
                found[at:at] = found[: r.randrange(len(found) + 1)]
            elif way == 4:
                found[at : at + 20] = r.choice(self.known).envelope[at : at + 20]
            else:
                found = found[:at]
            del found[200_000:]
        return bytes(found)

    def value(self, depth: int = 0) -> Any:
        r = self.random
        way = r.randrange(9 if depth < 5 else 7)
        if way == 0:
            return r.choice((0, 1, -1, 2**16, 2**62, 2**63, 2**64, 10**30))
        if way == 1:
            return r.choice((None, True, False))
        if way == 2:
            return r.choice(
                (BOLT, A, SCOPE.space, "rows", "statistics", "", "\0", "shot/", "é" * 300)
            )
        if way == 3:
            return r.choice((1.5, 1e300, float("inf"), float("nan")))
        if way < 7:
            return r.choice(("shot/a", f"name/{BOLT}", f"kept/{BOLT}", "label/bolt", NOW_MS << 16))
        if way == 7:
            return [self.value(depth + 1) for _ in range(r.randrange(5))]
        return {str(self.value(6)): self.value(depth + 1) for _ in range(r.randrange(5))}

    def gentle(self) -> bytes:
        """A well-formed contribution, newer than the real ones, that its device has not signed."""
        r = self.random
        body = json.loads(split(r.choice(self.known).envelope)[1])
        body["revision"] += r.choice((1, 2**16, 2**40))
        way = r.randrange(5)
        if way == 0:
            body["parts"] = []
        elif way == 1:
            body["gone"] = {r.choice(DEVICES): r.randrange(1, body["revision"])}
        elif way == 2:
            body["facts"][f"name/{body['class']}"] = [body["revision"], r.choice(("x", "nut"))]
        elif way == 3:
            body["device"] = r.choice((B, C, "stranger0000"))
        data = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        signer = r.choice((self.stranger, key_for(D)))
        return (signer.sign(data) if r.random() < 0.8 else r.randbytes(64)) + data

    def structured(self, signed: bool = False) -> bytes:
        """With values in the wrong places, under the signature of a member or of none."""
        r = self.random
        body = json.loads(split(r.choice(self.known[:1] if signed else self.known).envelope)[1])
        if signed:
            self.turn += 1
            body["revision"] += self.turn
        for _ in range(r.choice((1, 1, 2, 4))):
            table = body
            key = r.choice(sorted(table))
            while isinstance(table[key], dict) and table[key] and r.random() < 0.6:
                table = table[key]
                key = r.choice(sorted(table))
            table[key] = self.value()
            if r.random() < 0.1:
                table[str(self.value(6))] = self.value()
            if r.random() < 0.1 and len(table) > 1:
                del table[r.choice(sorted(table))]
        data = json.dumps(
            body, ensure_ascii=r.random() < 0.1, sort_keys=True, separators=(",", ":")
        ).encode("utf-8", "replace")
        if signed:
            return envelope(data, device=A)
        return (self.stranger.sign(data) if r.random() < 0.3 else r.randbytes(64)) + data

    def feed(self, box: Inbox) -> Reason | None:
        """One message; None only for a chunk of which more may come."""
        r = self.random
        way = r.randrange(7)
        if way == 6:
            reason = box.contribution(self.gentle())
        elif way < 2:
            data = self.mutated(r.choice(self.known).envelope)
            reason = box.contribution(data, r.choice((A, B, None)), r.choice((BOLT, None)))
        elif way < 4:
            data = r.choice(self.broken) if r.random() < 0.1 else self.structured()
            reason = box.contribution(data)
        elif r.random() < 0.3:
            reason = box.contribution(r.randbytes(r.choice((0, 1, 63, 64, 65, 300, 5_000))))
        else:
            return self.feed_chunk(box)
        assert reason in REASONS
        return reason

    def feed_chunk(self, box: Inbox) -> Reason | None:
        r = self.random
        device, sha256, index, chunk = r.choice(self.chunks)
        if r.random() < 0.5:
            sha256 = r.choice((r.randbytes(32).hex(), "", "../..", sha256[:-1], sha256.upper()))
        if r.random() < 0.3:
            chunk = cut(self.mutated(r.choice(self.broken_parts)), 10_000)[0]
            sha256 = hash_of(chunk[4:])
        if r.random() < 0.7:
            chunk = self.mutated(chunk)
        index = r.choice((index, index, 0, -1, 2**40))
        return box.chunk(r.choice((device, A, "", "x" * 100)), sha256, index, chunk)


def fuzzed(count: int, seed: int, memory: int) -> tuple[MemoryLedger, Inbox, int]:
    """A device that has heard the real messages, and then this many fuzzed ones."""
    fuzzer = Fuzzer(seed)
    d = ledger(D)
    tell(d, *fuzzer.known)
    box = inbox(d, memory=memory)
    before = d.replica.fingerprint(), d.view().digest(), d.state().digest(), d.clock.last
    refused = 0
    for turn in range(count):
        refused += fuzzer.feed(box) is not None
        if turn % 100 == 0:
            assert box.used <= memory
    assert box.ready() == []
    assert box.refused.total() == refused
    assert (
        d.replica.fingerprint(),
        d.view().digest(),
        d.state().digest(),
        d.clock.last,
    ) == before
    shots = d.state().n
    fuzzer.devices[0].teach("bolt", rows(99))
    real = fuzzer.devices[0].own(BOLT)
    assert box.contribution(real.envelope) is None
    for chunk in chunks(real):
        box.chunk(*chunk)
    d.hear(box.ready())
    assert d.state().n == shots + 1
    return d, box, refused


def test_fuzzed_messages_change_nothing_and_take_bounded_memory() -> None:
    fuzzed(300, seed=1, memory=2**20)  # warm
    tracemalloc.start()
    _, box, _ = fuzzed(3_000, seed=2, memory=2**20)
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert box.used <= 2**20
    assert left < 3 * 2**20  # with the messages that the test itself holds
    assert peak < left + RAW_LIMIT_BYTES + 2**20  # of one part, while it is unpacked


def test_what_a_member_signs_is_refused_or_seen_by_all_alike() -> None:
    """Broken on purpose, by who has a key: the views of two devices stay the second one's too."""
    fuzzer = Fuzzer(7)
    ledgers = [ledger(D), ledger("deck0000000e")]
    for each in ledgers:
        tell(each, *fuzzer.known)
    boxes = [inbox(each) for each in ledgers]
    taken = 0
    for _ in range(3_000):
        data = fuzzer.structured(signed=True)
        first, second = (box.contribution(data) for box in boxes)
        assert first == second
        for box in boxes:
            for chunk in fuzzer.chunks:
                if (A, chunk[1]) in box.wanted():
                    box.chunk(*chunk)
        taken += sum(each.hear(box.ready()).taken for each, box in zip(ledgers, boxes, strict=True))
    assert taken > 10
    assert ledgers[0].view().digest() == ledgers[1].view().digest()
    require_learned(ledgers[0])


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_messages(record_property: Callable[[str, object], None]) -> None:
    """No crash, no change of state, bounded memory; `-s` prints the figures."""
    fuzzed(3_000, seed=3, memory=2**20)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, box, refused = fuzzed(100_000, seed=4, memory=4 * 2**20)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    figures = {
        "seconds": round(time.perf_counter() - started, 1),
        "refused": refused,
        "by reason": dict(box.refused.most_common()),
        "inbox bytes at the end": box.used,
        "growth of the process at its peak, bytes": grown,
    }
    print("100,000 fuzzed messages:", figures)
    record_property("fuzz", json.dumps(figures))
    assert grown < 16 * 2**20


@unhurried
@given(st.binary(max_size=300), st.binary(max_size=80), st.integers(-5, 5))
def test_any_bytes_are_answered_with_a_reason(data: bytes, chunk: bytes, index: int) -> None:
    box = Inbox(SCOPE, TRUST, Clock(now_ms=lambda: NOW_MS), lambda _: None)
    assert box.contribution(data) in REASONS
    box.chunk(A, hash_of(chunk), index, chunk)
    assert box.ready() == []
