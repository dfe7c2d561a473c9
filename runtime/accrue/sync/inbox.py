"""What comes in from a fleet: checked completely before anything else sees it.

No I/O. A message changes nothing but the inbox, whose memory is bounded; a refused one changes
nothing but a count.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from accrue.errors import Rejected
from accrue.sync import parts
from accrue.sync.chunks import OVERHEAD_BYTES, Assembly
from accrue.sync.clock import Clock
from accrue.sync.contribution import (
    PART_LIMIT_BYTES,
    Contribution,
    PartKind,
    Scope,
    is_hash,
)
from accrue.sync.ledger import Heard
from accrue.sync.signed import parse, signed_bytes, split
from accrue.sync.trust import Reason, Trust

DEFAULT_MEMORY_BYTES = 32 * 2**20
RECENT_REFUSALS = 32
CLASSES_LIMIT = 10_000  # of which one device may speak
_OVERHEAD_BYTES = 600  # what a waiting contribution costs beside its envelope, at least
_PER_BYTE = 8  # what a byte of an envelope takes once it is parsed, at most
_CHECKED_LIMIT = 65_536

_DEVICE_LIMIT = 64  # characters of what a topic calls a device
_SHOWN_LIMIT = 200

Heading = tuple[PartKind, int, int]  # kind, rows, bytes


class Refusal(NamedTuple):
    """A message that was not taken."""

    reason: Reason
    device: str
    what: str


class Cache:
    """Messages that were verified and decoded already, for many light devices in one process.

    It saves an inbox the signature, the parsing and the unpacking of what another inbox of the
    same process has been through, and lets them all hold the same objects. A hit counts only for
    the same bytes, the same scope and the same `Trust.version`, so it is as safe as the other
    inbox was, and no safer: all that share a cache must share one roster and one keeper. A device
    on its own gains nothing by it, and timings taken with it leave that work out.

    Args:
        limit: contributions, and parts, kept at most, each; the oldest go first.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self._contributions: OrderedDict[tuple[bytes, Scope, int], Contribution] = OrderedDict()
        self._parts: OrderedDict[tuple[str, int], tuple[bytes, Heading]] = OrderedDict()
        self._whole: OrderedDict[bytes, Mapping[str, bytes]] = OrderedDict()

    def contribution(self, digest: bytes, scope: Scope, version: int) -> Contribution | None:
        return self._contributions.get((digest, scope, version))

    def add(self, digest: bytes, version: int, contribution: Contribution) -> None:
        self._contributions[digest, contribution.scope, version] = contribution
        if len(self._contributions) > self.limit:
            self._contributions.popitem(last=False)

    def part(self, sha256: str, dim: int) -> tuple[bytes, Heading] | None:
        """Bytes and heading of a part that was unpacked and found good."""
        return self._parts.get((sha256, dim))

    def whole(self, digest: bytes, found: Contribution, dim: int) -> Mapping[str, bytes] | None:
        """The parts of a contribution that was taken before, where all of them are here and are
        what it lists; None where one is lacking. Raises Rejected."""
        parts_of = self._whole.get(digest)
        if parts_of is None:
            parts_of = {}
            for part in found.parts:
                if (hit := self.part(part.sha256, dim)) is None:
                    return None
                parts.check_listing(part, *hit[1])
                parts_of[part.sha256] = hit[0]
            self._whole[digest] = parts_of
            if len(self._whole) > self.limit:
                self._whole.popitem(last=False)
        return parts_of

    def add_part(self, sha256: str, dim: int, data: bytes, heading: Heading) -> None:
        self._parts[sha256, dim] = data, heading
        if len(self._parts) > self.limit:
            self._parts.popitem(last=False)


@dataclass
class _Waiting:
    contribution: Contribution
    envelope: bytes
    parts: dict[str, bytes]  # at hand and not in the ledger, by SHA-256
    missing: set[str]
    used: int


def open_contribution(
    envelope: bytes, scope: Scope, trust: Trust, known: Callable[[Contribution], None] | None = None
) -> Contribution:
    """The contribution in an envelope of this scope, signed by a device that is trusted.

    Args:
        known: called with the contribution before its signature is checked, to spare the work.

    Raises:
        Rejected: oversized, malformed, wrong-scope, wrong-space, unknown-device, revoked, forged,
            or not-finite.
    """
    signature, body = split(envelope)
    contribution = Contribution.from_body(parse(body))
    _require_scope(contribution.scope, scope)
    if known is not None:
        known(contribution)
    reason = trust.verify(
        contribution.device, contribution.revision, signature, signed_bytes("contribution", body)
    )
    if reason is not None:
        raise Rejected(f"contribution of device {contribution.device}: {reason}", reason=reason)
    vars(contribution)["digest"] = hashlib.sha256(body).digest()  # fills the cached property
    return contribution


class Inbox:
    """Contributions and chunks of parts of one scope, on their way into a ledger.

    Where more waits than `memory` allows, the oldest is given up: parts that nothing asked for,
    then parts that are asked for (they stay in `wanted`), then contributions, and `lost` tells
    that the retained ones must be read again.

    Args:
        scope: of what is taken. trust: whose signatures count. clock: of the device.
        part: bytes of a part that the ledger has, else None (`Ledger.part`).
        known: revisions that the ledger has (`Ledger.revisions`).
        own: the device itself, of which nothing is taken.
        memory: bytes held at most, what is merely referred to included.
        cache: see `Cache`; None on a real device.

    Attributes:
        refused: messages not taken, by reason. recent: the last of them, newest last.
        lost: a contribution was given up; to be set to False by who acts on it.
    """

    def __init__(
        self,
        scope: Scope,
        trust: Trust,
        clock: Clock,
        part: Callable[[str], bytes | None],
        *,
        known: Mapping[tuple[str, str], int] | None = None,
        own: str = "",
        memory: int = DEFAULT_MEMORY_BYTES,
        cache: Cache | None = None,
    ) -> None:
        self.scope = scope
        self.refused: Counter[Reason] = Counter()
        self.recent: deque[Refusal] = deque(maxlen=RECENT_REFUSALS)
        self.lost = False
        self._trust = trust
        self._clock = clock
        self._part = part
        self._own = own
        self._memory = memory
        self._cache = cache
        self._known = dict(known or {})
        self._classes = Counter(device for device, _ in self._known)  # of which each spoke
        self._waiting: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()
        self._used = 0  # by what waits
        self._wanted: dict[str, set[tuple[str, str]]] = {}  # SHA-256 to who waits for it
        self._at_hand: dict[str, set[tuple[str, str]]] = {}  # ... and to who waits and has it
        self._asked: Assembly[tuple[str, str]] = Assembly(memory, PART_LIMIT_BYTES)
        self._unasked: Assembly[tuple[str, str]] = Assembly(memory, PART_LIMIT_BYTES)
        self._early: OrderedDict[str, bytes] = OrderedDict()  # whole, and nobody asked yet
        self._early_used = 0
        self._checked: OrderedDict[str, Heading] = OrderedDict()  # parts that the ledger has
        self._whole: list[Heard] = []  # by the cache alone, until they are given out

    @property
    def used(self) -> int:
        """Bytes held now, as `memory` counts them."""
        return self._used + self._asked.used + self._unasked.used + self._early_used

    # ---- what arrives ---------------------------------------------------------------------------

    def contribution(
        self, payload: bytes, device: str | None = None, class_id: str | None = None
    ) -> Reason | None:
        """Takes an envelope; None, or why it was refused.

        Args:
            device, class_id: of the topic that it came on, where the topic says.
        """
        try:
            self._contribution(payload, device, class_id)
        except Rejected as error:
            return self._refuse(error, device or "")
        return None

    def chunk(self, device: str, sha256: str, index: int, payload: bytes) -> Reason | None:
        """Takes a chunk of a part; None, or why it was refused.

        A chunk of what the ledger has is passed over; one that nothing asked for is kept as long
        as there is room, because a contribution may come after its parts.
        """
        try:
            self._chunk(device, sha256, index, payload)
        except Rejected as error:
            return self._refuse(error, device)
        return None

    def opened(self, payload: bytes) -> Contribution | None:
        """A contribution that is good, of the device itself too; nothing is taken.

        None where it is refused, which is counted.
        """
        try:
            found = open_contribution(payload, self.scope, self._trust)
            self._require_present(found)
        except Rejected as error:
            self._refuse(error, "")
            return None
        return found

    def ready(self) -> list[Heard]:
        """Contributions that are whole, in the order in which they came; each is given once."""
        found, self._whole = self._whole, []
        for key in [key for key, waiting in self._waiting.items() if not waiting.missing]:
            waiting = self._waiting[key]
            for sha256 in {part.sha256 for part in waiting.contribution.parts}:
                if sha256 not in waiting.parts and self._part(sha256) is None:
                    self._checked.pop(sha256, None)  # dropped since it was looked for
                    self._want(key, waiting, sha256)
            if not waiting.missing:
                self._release(key)
                self._know(waiting.contribution)
                found.append(Heard(waiting.contribution, waiting.envelope, waiting.parts))
        return found

    def wanted(self) -> set[tuple[str, str]]:
        """(device, SHA-256) of the parts that something waits for."""
        return {(device, sha256) for sha256, keys in self._wanted.items() for device, _ in keys}

    def waiting(self) -> int:
        """Contributions that are not whole."""
        return sum(1 for waiting in self._waiting.values() if waiting.missing)

    def give_up(self, contribution: Contribution) -> None:
        """Takes one that was ready for not heard: the ledger had no room. `lost` tells of it."""
        self._forget_known(contribution.key)
        self.lost = True

    def restart(self, known: Mapping[tuple[str, str], int]) -> None:
        """Drops all that waits, and takes these for the revisions that the ledger has."""
        for key in list(self._waiting):
            self._release(key)
        for assembly in (self._asked, self._unasked):
            assembly.shrink(0)
        self._early.clear()
        self._early_used = 0
        self._checked.clear()
        self._known = dict(known)
        self._classes = Counter(device for device, _ in self._known)

    def forget(self, device: str) -> None:
        """Drops what waits of a device, and the memory of its revisions."""
        self._whole = [heard for heard in self._whole if heard.contribution.device != device]
        for key in [key for key in self._waiting if key[0] == device]:
            self._release(key)
        for key in [key for key in self._known if key[0] == device]:
            self._forget_known(key)

    # ---- contributions --------------------------------------------------------------------------

    def _contribution(self, payload: bytes, device: str | None, class_id: str | None) -> None:
        found = None
        version = self._trust.version
        if self._cache is not None:
            digest = hashlib.sha256(payload).digest()
            found = self._cache.contribution(digest, self.scope, version)
        if found is None:
            found = open_contribution(
                payload, self.scope, self._trust, lambda c: self._require_new(c, device, class_id)
            )
            if self._cache is not None:
                self._cache.add(digest, version, found)
        else:
            self._require_new(found, device, class_id)
        self._require_present(found)
        self._require_few(found)
        if self._cache is not None and found.key not in self._waiting:
            whole = self._cache.whole(digest, found, self.scope.dim)
            if whole is not None:
                self._know(found)
                self._whole.append(Heard(found, payload, whole))
                return
        self._wait(found, payload)

    def _know(self, found: Contribution) -> None:
        self._classes[found.device] += found.key not in self._known
        self._known[found.key] = found.revision

    def _forget_known(self, key: tuple[str, str]) -> None:
        if self._known.pop(key, None) is not None:
            self._classes[key[0]] -= 1

    def _require_few(self, found: Contribution) -> None:
        """No member fills all the others with classes; the owner can take out one that tries."""
        if found.key not in self._known and self._classes[found.device] >= CLASSES_LIMIT:
            raise Rejected(
                f"device {found.device} speaks of more than {CLASSES_LIMIT:,} classes",
                reason="oversized",
                hint="its owner can take it out: accrue-fleet roster revoke",
                expected=CLASSES_LIMIT,
            )

    def _require_present(self, found: Contribution) -> None:
        if self._clock.is_future(found.revision):
            raise Rejected(
                f"contribution of device {found.device} from the future: its clock or this "
                "one's is wrong",
                reason="future",
                hint="set the clocks of both, for example with NTP",
            )

    def _require_new(self, found: Contribution, device: str | None, class_id: str | None) -> None:
        if device not in (None, found.device) or class_id not in (None, found.class_id):
            raise Rejected(
                f"contribution of device {found.device} about class {found.class_id} on the "
                "topic of another",
                reason="wrong-scope",
            )
        key = found.key
        waiting = self._waiting.get(key)
        held = waiting.contribution.revision if waiting else self._known.get(key, 0)
        if found.revision <= held or found.device == self._own:
            raise Rejected(
                f"revision {found.revision} of device {found.device}; {held} is there already",
                reason="replayed",
            )

    def _wait(self, found: Contribution, envelope: bytes) -> None:
        key = found.key
        before = self._waiting.get(key)
        arrived = before.parts if before else {}
        if before:
            self._release(key)
        used = _OVERHEAD_BYTES + _PER_BYTE * len(envelope)
        waiting = self._waiting[key] = _Waiting(found, envelope, {}, set(), used)
        self._used += used
        try:
            for sha256 in {part.sha256 for part in found.parts}:
                if sha256 in arrived:
                    heading = (*parts.heading(arrived[sha256]), len(arrived[sha256]))
                    self._give(key, waiting, sha256, arrived[sha256], heading)
                else:
                    self._want(key, waiting, sha256)
        except Rejected:
            self._release(key)
            raise
        self._shrink()

    def _want(self, key: tuple[str, str], waiting: _Waiting, sha256: str) -> None:
        """Takes a part from where it is at hand, or waits for it. Raises Rejected."""
        heading = self._checked.get(sha256)
        if heading is None and (held := self._part(sha256)) is not None:
            heading = (*parts.heading(held), len(held))
            self._checked[sha256] = heading
            if len(self._checked) > _CHECKED_LIMIT:
                self._checked.popitem(last=False)
        if heading is not None:
            _check_listings(waiting.contribution, sha256, heading)
            return
        data = None
        if sha256 in self._at_hand:
            data = self._waiting[next(iter(self._at_hand[sha256]))].parts[sha256]
        elif sha256 in self._early:
            data = self._early.pop(sha256)
            self._early_used -= _early_cost(data)
        if data is not None:
            heading = (*parts.heading(data), len(data))
        elif self._cache is not None and (hit := self._cache.part(sha256, self.scope.dim)):
            data, heading = hit
        if data is not None and heading is not None:
            self._give(key, waiting, sha256, data, heading)
            return
        waiting.missing.add(sha256)
        self._wanted.setdefault(sha256, set()).add(key)
        self._unasked.hand_over((key[0], sha256), self._asked)

    def _give(
        self, key: tuple[str, str], waiting: _Waiting, sha256: str, data: bytes, heading: Heading
    ) -> None:
        _check_listings(waiting.contribution, sha256, heading)
        waiting.missing.discard(sha256)
        self._at_hand.setdefault(sha256, set()).add(key)
        waiting.parts[sha256] = data
        waiting.used += len(data)
        self._used += len(data)

    def _release(self, key: tuple[str, str]) -> None:
        """Waits for this one no longer."""
        waiting = self._waiting.pop(key)
        self._used -= waiting.used
        for sha256 in waiting.parts:
            self._at_hand[sha256].discard(key)
            if not self._at_hand[sha256]:
                del self._at_hand[sha256]
        for sha256 in waiting.missing:
            self._wanted[sha256].discard(key)
            if not self._wanted[sha256]:
                del self._wanted[sha256]
                self._asked.hand_over((key[0], sha256), self._unasked)

    # ---- parts ----------------------------------------------------------------------------------

    def _chunk(self, device: str, sha256: str, index: int, payload: bytes) -> None:
        if not is_hash(sha256) or len(device) > _DEVICE_LIMIT:
            raise Rejected(f"chunk of {sha256[:80]!a}", reason="malformed")
        wanted = sha256 in self._wanted
        if not wanted and (
            (self._cache is not None and self._cache.part(sha256, self.scope.dim) is not None)
            or sha256 in self._early
            or sha256 in self._checked
            or self._part(sha256) is not None
        ):
            return
        assembly = self._asked if wanted else self._unasked
        data = assembly.add((device, sha256), index, payload)
        if data is None:
            self._shrink()
            return
        cached = self._cache.part(sha256, self.scope.dim) if self._cache else None
        if cached is not None and cached[0] == data:
            data, heading = cached
        else:
            if parts.hash_of(data) != sha256:
                raise Rejected(f"part {sha256[:12]} with another hash", reason="forged")
            parts.unpack(data, self.scope.dim)
            heading = (*parts.heading(data), len(data))
            if self._cache is not None:
                self._cache.add_part(sha256, self.scope.dim, data, heading)
        if not wanted:
            self._early[sha256] = data
            self._early_used += _early_cost(data)
        for key in self._wanted.pop(sha256, ()):
            waiting = self._waiting[key]
            waiting.missing.discard(sha256)
            try:
                self._give(key, waiting, sha256, data, heading)
            except Rejected as error:
                self._release(key)
                self._refuse(error, key[0])
        self._shrink()

    # ---- bounds ---------------------------------------------------------------------------------

    def _shrink(self) -> None:
        while self.used > self._memory and self._early:
            _, data = self._early.popitem(last=False)
            self._early_used -= _early_cost(data)
        for assembly in (self._unasked, self._asked):
            if self.used > self._memory:
                assembly.shrink(max(0, assembly.used - (self.used - self._memory)))
        while self.used > self._memory and self._waiting:
            self._release(next(iter(self._waiting)))
            self.lost = True

    def _refuse(self, error: Rejected, device: str) -> Reason:
        reason = cast(Reason, error.reason)
        self.refused[reason] += 1
        self.recent.append(Refusal(reason, device[:_DEVICE_LIMIT], error.message[:_SHOWN_LIMIT]))
        return reason


def _require_scope(found: Scope, expected: Scope) -> None:
    if (found.fleet, found.class_set) != (expected.fleet, expected.class_set):
        raise Rejected(
            f"contribution to class set {found.class_set} of fleet {found.fleet}; expected "
            f"{expected.class_set} of {expected.fleet}",
            reason="wrong-scope",
        )
    if (found.space, found.dim) != (expected.space, expected.dim):
        raise Rejected(
            f"contribution of space {found.space16} ({found.dim}-d); expected "
            f"{expected.space16} ({expected.dim}-d)",
            reason="wrong-space",
            hint="use the same encoder bundle on both devices",
        )


def _check_listings(contribution: Contribution, sha256: str, heading: Heading) -> None:
    for part in contribution.parts:
        if part.sha256 == sha256:
            parts.check_listing(part, *heading)


def _early_cost(data: bytes) -> int:
    return len(data) + OVERHEAD_BYTES
