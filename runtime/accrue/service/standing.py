"""What the owner of a fleet is told: plain values, for the command line, HTTP and the console.

`accrue.service.governance` makes them; this needs none of the packages of the extra `sync`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepTaken:
    """An entry of the owner's log.

    Attributes:
        seq: its number. at: unix seconds. subject: what it changed; null where it cannot be undone.
        before, after: from what to what. undoes: the step that it took back.
        undone_by: the one that took it back. actor: who took it.
    """

    seq: int
    at: float
    verb: str
    summary: str
    subject: str | None
    before: Any
    after: Any
    undoes: int | None
    undone_by: int | None
    actor: str


@dataclass(frozen=True)
class ClassChange:
    """A class that is added, changed or removed. `was`: its former name, where it had another."""

    id: str
    name: str
    was: str
    shots_before: int
    shots_after: int
    rows_before: int
    rows_after: int


@dataclass(frozen=True)
class Clash:
    """Two classes that may be confused: of one name, or near to one another.

    Attributes:
        cosine: of their prototypes; null where one has no shots.
    """

    first: str
    second: str
    same_name: bool
    cosine: float | None


@dataclass(frozen=True)
class Diff:
    """From one class set to another. `collisions`: of what is added or changed, nearest first."""

    added: list[ClassChange]
    changed: list[ClassChange]
    removed: list[ClassChange]
    collisions: list[Clash]


@dataclass(frozen=True)
class Remarked:
    """What the owner said to a contribution; `taken`: whether it was approved."""

    device: str
    class_id: str
    revision: int
    taken: bool
    text: str


@dataclass(frozen=True)
class DeviceSet:
    """A class set on a device, as that reported it.

    Attributes:
        digest: of what counts there. manifest: that is installed; 0: none.
        wanted: manifest that should be. refused: why that was rolled back; else "".
        accuracy, before: left-out accuracy on kept shots now and before the manifest, in
            ten-thousandths. left_out: shots that it is of. drafts: own changes that wait.
    """

    set: str
    space: str
    digest: str
    classes: int
    shots: int
    manifest: int
    wanted: int
    refused: str
    accuracy: int | None
    before: int | None
    left_out: int
    drafts: int


@dataclass(frozen=True)
class FleetDevice:
    """A device of the roster.

    Attributes:
        state: init, ready, stopped, offline, never seen, revoked or forgotten. version: of Accrue.
        reported_at: unix seconds. roster: version that it goes by.
        unsent: contributions that wait there. lag_ms: from when something was said to when it was
            applied. refused: messages, by reason. asks_for_key: a new key waits to be let in.
    """

    device: str
    name: str
    state: str
    version: str | None
    reported_at: float | None
    roster: int | None
    unsent: int | None
    lag_ms: int | None
    refused: dict[str, int]
    asks_for_key: bool
    sets: list[DeviceSet]


@dataclass(frozen=True)
class Trial:
    """A manifest that a share of the devices tries."""

    percent: int
    manifest: int


@dataclass(frozen=True)
class FleetSet:
    """A class set in one embedding space.

    Attributes:
        policy: open or curated. digest, classes, shots: of all that devices have taught.
        manifest: in force; null where there is none. drafts: changes that nobody has looked at.
        decided: proposals that wait to be published.
        etag: for `If-Match`: changes with what is in force, the policy and what was decided.
    """

    set: str
    space: str
    dim: int
    policy: str
    digest: str
    classes: int
    shots: int
    manifest: int | None
    canary: Trial | None
    drafts: int
    decided: int
    etag: str


@dataclass(frozen=True)
class Standing:
    """How the fleet stands, as its owner knows it.

    Attributes:
        owner: fingerprint of the owner's key. roster: version.
        visited_at: when the broker was asked for everything, in unix seconds.
        untold: steps that the broker was not told of yet.
    """

    fleet: str
    owner: str
    roster: int
    visited_at: float | None
    untold: int
    devices: list[FleetDevice]
    sets: list[FleetSet]


@dataclass(frozen=True)
class ProposedBy:
    """What one device said: its `revision` of the class."""

    device: str
    name: str
    revision: int


@dataclass(frozen=True)
class Proposed:
    """A proposal, and what approving it would change; null where it was decided already.

    Attributes:
        status: open, approved, denied or replaced.
    """

    id: int
    class_name: str
    class_id: str
    set: str
    space: str
    entries: list[ProposedBy]
    status: str
    remark: str
    at: float
    difference: Diff | None


@dataclass(frozen=True)
class Gathered:
    """What a visit brought.

    Attributes:
        proposals: that are open now. refused: messages, by reason. missing: parts that the broker
            does not have.
    """

    proposals: list[Proposed]
    refused: dict[str, int]
    missing: int


@dataclass(frozen=True)
class Manifested:
    """A manifest of a class set.

    Attributes:
        previous: the one before; 0: none. in_force: for all. on_trial: for a share.
    """

    number: int
    at: float
    note: str
    classes: int
    previous: int
    in_force: bool
    on_trial: bool
    remarks: list[Remarked]


@dataclass(frozen=True)
class Accuracy:
    """Left-out accuracy before and after a manifest: means over the devices that reported it."""

    manifest: int | None = None
    devices: int = 0
    before: float | None = None
    after: float | None = None
