"""What one device holds of the fleet: the newest contribution of each device for each class.

Joining is a maximum for each (device, class): commutative, associative and idempotent, so any
order, repetition or grouping of the same contributions ends in the same replica
(docs/reference/merge.md).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.errors import Conflict, FormatError, NotFound, Rejected, RowsError
from accrue.learn.state import State
from accrue.learn.statistics import Rows, Statistics, check_rows
from accrue.store.names import class_id as id_of
from accrue.store.names import class_key, clean_name
from accrue.sync import parts
from accrue.sync.clock import Clock
from accrue.sync.contribution import (
    EVIDENCE,
    Contribution,
    Fact,
    Scope,
    Value,
    is_device_id,
    text_value,
)
from accrue.sync.ledger import Applied, Heard, Own
from accrue.sync.parts import Item
from accrue.sync.signed import seal
from accrue.sync.view import Index, View

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32


class Replica:
    """A map from (device, class) to the contribution with the highest revision.

    Args:
        scope: of all contributions in it.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._held: dict[tuple[str, str], Contribution] = {}
        self._index: Index | None = None

    @property
    def contributions(self) -> Mapping[tuple[str, str], Contribution]:
        """All that is held, by device and class id."""
        return MappingProxyType(self._held)

    def get(self, device: str, class_id: str) -> Contribution | None:
        return self._held.get((device, class_id))

    def join(self, contribution: Contribution) -> bool:
        """Whether this contribution is newer than the one held, in whose place it then stands.

        Raises:
            Rejected: it is of another scope.
        """
        if contribution.scope is not self.scope and contribution.scope != self.scope:
            wrong_space = contribution.scope.space != self.scope.space
            raise Rejected(
                f"contribution of {contribution.scope}; expected {self.scope}",
                reason="wrong-space" if wrong_space else "wrong-scope",
            )
        held = self._held.get(contribution.key)
        if held is not None and not _is_newer(contribution, held):
            return False
        self._held[contribution.key] = contribution
        if self._index is not None:
            self._index.put(contribution)
        return True

    def forget(self, device: str) -> None:
        """Drops all that a device said."""
        for key in [key for key in self._held if key[0] == device]:
            del self._held[key]
            if self._index is not None:
                self._index.drop(*key)

    def index(self) -> Index:
        """What keeps the view; made at the first call, so that who never asks never pays."""
        if self._index is None:
            self._index = Index(self.scope)
            for contribution in self._held.values():
                self._index.put(contribution)
        return self._index

    def view(self) -> View:
        return self.index().view()

    def fingerprint(self) -> str:
        """64 hex characters that are equal where the contributions held are equal.

        Cheap: no view is made. The sum of the hashes of the bodies, modulo 2**256.
        """
        total = sum(int.from_bytes(c.digest, "big") for c in self._held.values())
        return f"{total % 2**256:064x}"


def _is_newer(one: Contribution, held: Contribution) -> bool:
    if one.revision != held.revision:
        return one.revision > held.revision
    return one.digest > held.digest  # a device that said two things at once: all choose the same


class _Edit:
    """A new revision of one own contribution in the making."""

    def __init__(self, before: Contribution | None) -> None:
        self.facts = dict(before.facts) if before else {}
        self.gone = dict(before.gone) if before else {}
        self.items = {
            m.subject: Item(m.n_rows, m.at_ms, m.stamp)
            for part in (before.parts if before else ())
            for m in part.members
        }


_Facts = dict[str, tuple[str, Value]]  # subject to the class that it is filed under, and value
_Gone = dict[str, dict[str, int]]  # class id to what is gone


class MemoryLedger:
    """A light device: a `Ledger` in memory, and the verbs of teaching.

    For simulations and tests, and for programs that keep nothing. All is lost with the process.
    Not safe to share between threads.

    Args:
        scope: what it belongs to. device: its id. private_key: signs what it says.
        clock: its own; made new where none is given.

    Attributes:
        replica: what it holds, own contributions included.
    """

    def __init__(
        self,
        scope: Scope,
        device: str,
        private_key: Ed25519PrivateKey,
        clock: Clock | None = None,
    ) -> None:
        if not is_device_id(device):
            raise FormatError(f"device id {device!r}; expected 12 characters of {_ALPHABET}")
        self._scope = scope
        self._device = device
        self._key = private_key
        self.clock = clock or Clock()
        self.replica = Replica(scope)
        self._own: dict[str, Contribution] = {}
        self._unsent: dict[str, int] = {}  # class id to revision, oldest change first
        self._envelopes: dict[str, tuple[int, bytes]] = {}
        self._parts: dict[str, bytes] = {}
        self._listings: Counter[str] = Counter()
        self._handed_out: set[str] = set()  # own parts that may have been sent
        self._contents: dict[str, Rows | Statistics] = {}  # own evidence, taken away or not
        self._taught_ms: dict[str, int] = {}
        self._last_id_ms = 0
        self._journal: list[tuple[_Facts, _Gone]] = []  # what undo says

    # ---- the ledger -----------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        return self._scope

    @property
    def device(self) -> str:
        return self._device

    def unsent(self) -> list[str]:
        return list(self._unsent)

    def own(self, class_id: str) -> Own:
        contribution = self._own.get(class_id)
        if contribution is None:
            raise NotFound(f"nothing said about class {class_id}", found=class_id)
        revision, envelope = self._envelopes.get(class_id, (0, b""))
        if revision != contribution.revision:
            envelope = seal("contribution", contribution.to_body(), self._key)
            self._envelopes[class_id] = contribution.revision, envelope
        self._handed_out.update(part.sha256 for part in contribution.parts)
        return Own(
            contribution,
            envelope,
            {part.sha256: self._parts[part.sha256] for part in contribution.parts},
        )

    def acknowledge(self, class_id: str, revision: int) -> None:
        if self._unsent.get(class_id, revision + 1) <= revision:
            del self._unsent[class_id]

    def owned(self) -> dict[str, int]:
        return {class_id: own.revision for class_id, own in self._own.items()}

    def revisions(self) -> dict[tuple[str, str], int]:
        return {
            key: contribution.revision
            for key, contribution in self.replica.contributions.items()
            if key[0] != self._device
        }

    def has_part(self, sha256: str) -> bool:
        return sha256 in self._parts

    def part(self, sha256: str) -> bytes | None:
        return self._parts.get(sha256)

    def hear(self, heard: Sequence[Heard]) -> Applied:
        taken = 0
        classes = set()
        replaced: list[Contribution] = []
        for each in heard:
            contribution = each.contribution
            before = self.replica.get(*contribution.key)
            if contribution.device == self._device or not self.replica.join(contribution):
                continue
            self.clock.observe(contribution.revision)
            self._list(contribution, each.parts)
            replaced += [before] if before else []
            taken += 1
            classes.add(contribution.class_id)
        for contribution in replaced:  # only now: a later one may list what an earlier one had
            self._unlist(contribution)
        summary = f"received {taken} contributions about {len(classes)} classes" if taken else ""
        return Applied(taken, frozenset(classes), summary)

    def forget(self, device: str) -> None:
        for (author, _), contribution in self.replica.contributions.items():
            if author == device:
                self._unlist(contribution)
        self.replica.forget(device)

    def view(self) -> View:
        return self.replica.view()

    def state(self) -> State:
        """What it has learned, own and heard."""
        return self.view().state(self._parts)

    # ---- the verbs ------------------------------------------------------------------------------

    def teach(self, name: str, rows: Rows, class_id: str | None = None) -> str:
        """Adds a shot to the class that a name leads to, or to a new one; its subject.

        Args:
            rows: int16 (views, dim). class_id: of the class, which spares looking the name up.
        """
        return self._add("shot", clean_name(name), rows, class_id)

    def refuse(self, name: str, rows: Rows) -> str:
        """Adds "not this" of a class that is there; its subject. Raises NotFound."""
        return self._add("refusal", name, rows, self._require(name))

    def teach_text(self, name: str, prompt: str, vector: Rows) -> None:
        """Teaches a class by a text, whose embedding is int16 (dim,)."""
        target, facts = self._resolve(clean_name(name))
        facts[f"text/{target}"] = target, text_value(prompt, vector)
        self._commit(facts)

    def keep(self, name: str, kept: bool = True) -> None:
        """Makes a class exist though it may be empty."""
        target, facts = self._resolve(clean_name(name))
        facts[f"kept/{target}"] = target, kept
        self._commit(facts)

    def rename(self, name: str, new: str) -> None:
        """Raises NotFound, or Conflict where the new name leads to another class."""
        target, new = self._require(name), clean_name(new)
        found = self.view().find(new)
        if found not in (None, target):
            raise Conflict(f"name {new!r} is taken")
        facts: _Facts = {f"name/{target}": (target, new)}
        if found is None:
            facts[f"label/{class_key(new)}"] = target, (target, new)
        self._commit(facts)

    def merge(self, name: str, into: str) -> None:
        """Makes a class count as another. Raises NotFound, or Conflict where it does already."""
        one, target = self._require(name), self._require(into)
        if one == target:
            raise Conflict(f"class {name!r} is {into!r} already")
        self._commit({f"merged/{one}": (one, target)})

    def remove(self, name: str) -> None:
        """Removes a class, and those that count as it. Raises NotFound."""
        root = self._require(name)
        view = self.view()
        members = [class_id for class_id in view.classes if view.root(class_id) == root]
        gone = {
            class_id: {
                device: held.revision
                for (device, about), held in self.replica.contributions.items()
                if about == class_id and device != self._device
            }
            | {self._device: self.clock.tick()}
            for class_id in members
        }
        mine: _Facts = {
            subject: (place.class_id, None)
            for subject, place in view.placements.items()
            if subject in self._contents and place.class_id in gone
        }
        self._commit(mine, gone)

    def relabel(self, subject: str, name: str) -> None:
        """Moves a shot, its own or another's, to a class. Raises NotFound, or Conflict."""
        place = self._require_placed(subject)
        target, facts = self._resolve(clean_name(name))
        if self.view().root(place) == target:
            raise Conflict(f"{subject} is of class {name!r} already")
        facts[subject] = target, target
        self._commit(facts)

    def take_away(self, subject: str) -> None:
        """Takes a shot, sum or refusal away, its own or another's. Raises NotFound."""
        self._commit({subject: (self._require_placed(subject), None)})

    def fold(self, name: str) -> str:
        """Replaces the own shots of a class by their sum; the subject of it.

        Raises NotFound where the class has none.
        """
        target = self._require(name)
        shots = [s for s in self.view().classes[target].shots if s in self._contents]
        if not shots:
            raise NotFound(f"no own shots of class {name!r}")
        rows = np.concatenate([np.asarray(self._contents[shot]) for shot in shots])
        subject = f"folded/{self._device}-{self._new_id()}"
        self._contents[subject] = Statistics.of(rows)
        self._taught_ms[subject] = self.clock.now_ms()
        facts: _Facts = dict.fromkeys(shots, (target, None))
        self._commit({subject: (target, target), **facts})
        return subject

    def undo(self) -> None:
        """Takes the last verb back; what others said since stays. Raises NotFound."""
        if not self._journal:
            raise NotFound("nothing to undo")
        self._apply(*self._journal.pop())

    # ---- inside ---------------------------------------------------------------------------------

    def _add(self, group: str, name: str, rows: Rows, class_id: str | None) -> str:
        if len(check_rows(rows, self._scope.dim)) == 0:
            raise RowsError("a shot without rows; expected at least one", found=0, expected=1)
        subject = f"{group}/{self._new_id()}"
        self._contents[subject] = rows.copy()
        self._taught_ms[subject] = self.clock.now_ms()
        if class_id is None:
            class_id, facts = self._resolve(name)
            self._commit({**facts, subject: (class_id, class_id)})
            return subject
        facts = {subject: (class_id, class_id)}
        label = f"label/{class_key(name)}"
        if group == "shot" and (
            class_id not in self._own or label not in self._own[class_id].facts
        ):
            facts[label] = class_id, (class_id, name)
        self._journal.append(({subject: (class_id, None)}, {}))
        self._apply(facts, {})
        return subject

    def _resolve(self, name: str) -> tuple[str, _Facts]:
        """The class that a name leads to; for a new one, the fact that makes it so."""
        found = self.view().find(name)
        if found is not None:
            return found, {}
        new = id_of(self._scope.class_set, name)
        if new in self.view().classes:
            new = self.view().root(new)
        return new, {f"label/{class_key(name)}": (new, (new, name))}

    def _require(self, name: str) -> str:
        found = self.view().find(name)
        if found is None:
            raise NotFound(f"no class {name!r}", found=name)
        return found

    def _require_placed(self, subject: str) -> str:
        place = self.view().placements.get(subject)
        if place is None:
            raise NotFound(f"no {subject}", found=subject)
        return place.class_id

    def _new_id(self) -> str:
        """16 characters: ten for the time in milliseconds, six random; ascending."""
        self._last_id_ms = max(self._last_id_ms + 1, self.clock.now_ms())
        number = self._last_id_ms << 30 | secrets.randbits(30)
        return "".join(_ALPHABET[number >> 5 * i & 31] for i in reversed(range(16)))

    def _commit(self, facts: _Facts, gone: _Gone | None = None) -> None:
        """One verb, with what takes it back."""
        before: _Facts = {}
        index = self.replica.index()
        for subject, (class_id, _) in facts.items():
            value = index.value(subject)
            filed = class_id
            if isinstance(value, tuple) and subject.startswith("label/"):
                filed = value[0]
            elif isinstance(value, str) and subject.partition("/")[0] in EVIDENCE:
                filed = value
            before[subject] = filed, value
        had = {
            about: dict(self._own[about].gone) if about in self._own else {} for about in gone or {}
        }
        self._journal.append((before, had))
        self._apply(facts, gone or {})

    def _apply(self, facts: _Facts, gone: _Gone) -> None:
        """Says this: the own evidence by listing it or not, all else as facts."""
        edits: dict[str, _Edit] = {}

        def edit(class_id: str) -> _Edit:
            if class_id not in edits:
                edits[class_id] = _Edit(self._own.get(class_id))
            return edits[class_id]

        for class_id, covered in gone.items():
            edit(class_id).gone = dict(covered)
        for subject, (class_id, value) in facts.items():
            stamp = self.clock.tick()
            for other, own in self._own.items():
                if subject in own.claims:
                    edit(other).facts.pop(subject, None)
                    edit(other).items.pop(subject, None)
            if subject not in self._contents:
                edit(class_id).facts[subject] = Fact(stamp, value)
            elif value is not None:
                content = self._contents[subject]
                n = content.n if isinstance(content, Statistics) else len(content)
                edit(class_id).items[subject] = Item(n, self._taught_ms[subject], stamp)
        for class_id, each in edits.items():
            self._say(class_id, each)

    def _say(self, class_id: str, edit: _Edit) -> None:
        before = self._own.get(class_id)
        old = before.parts if before else ()
        listed, packed = parts.arrange(
            old,
            edit.items,
            self._contents.__getitem__,
            loose={part.sha256 for part in old} - self._handed_out,
        )
        new = Contribution(
            self._scope,
            self._device,
            class_id,
            self.clock.tick(),
            edit.facts,
            edit.gone,
            listed,
        )
        self._own[class_id] = new
        self.replica.join(new)
        self._list(new, packed)
        if before is not None:
            self._unlist(before)
        self._unsent.pop(class_id, None)
        self._unsent[class_id] = new.revision

    def _list(self, contribution: Contribution, arrived: Mapping[str, bytes]) -> None:
        for part in contribution.parts:
            self._listings[part.sha256] += 1
            if part.sha256 not in self._parts:
                self._parts[part.sha256] = arrived[part.sha256]

    def _unlist(self, contribution: Contribution) -> None:
        """Drops the bytes of parts that nobody lists any more."""
        for part in contribution.parts:
            self._listings[part.sha256] -= 1
            if self._listings[part.sha256] == 0:
                del self._listings[part.sha256], self._parts[part.sha256]
                self._handed_out.discard(part.sha256)
