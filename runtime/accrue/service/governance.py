"""What the owner of a fleet does: one object behind `accrue-fleet`, the HTTP API and the console.

It needs the owner's folder, with the fleet's private key. A device has none, unless its owner gave
it one (setting `fleet_owner`).
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from accrue.errors import Conflict, LinkError, NotFound, Rejected, UsageError
from accrue.service.standing import (
    Accuracy,
    Clash,
    ClassChange,
    DeviceSet,
    Diff,
    FleetDevice,
    FleetSet,
    Gathered,
    Manifested,
    Proposed,
    ProposedBy,
    Remarked,
    Standing,
    StepTaken,
    Trial,
)
from accrue.store.names import shown
from accrue.sync import curation, reload
from accrue.sync.broker import BrokerFolder
from accrue.sync.clock import COUNTER_BITS, stamp_ms
from accrue.sync.contribution import Scope
from accrue.sync.difference import Difference
from accrue.sync.identity import fingerprint
from accrue.sync.manifest import clean_remark
from accrue.sync.owner import OwnerLine, Progress
from accrue.sync.presence import Presence
from accrue.sync.report import TEN_THOUSANDTHS, Report, SetReport
from accrue.sync.roster import Member, RosterTrust, rotated
from accrue.sync.workspace import Proposal, Step, Workspace

BROKER_FOLDER = "broker"
OPEN, CURATED = "open", "curated"
MOST_REMEMBERED = 500
T = TypeVar("T")
GRACE_HOURS = 168  # that a device may go on with its old key


@dataclass
class Visit:
    """One visit. `line`: None where it is offline."""

    workspace: Workspace
    line: OwnerLine | None
    refused: dict[str, int] = field(default_factory=dict)
    missing: int = 0


class Remembered:
    """What took long to work out, by all that it follows from. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """None where it is not known."""
        with self._lock:
            return self._kept.get(key)

    def put(self, key: Hashable, value: T) -> T:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > MOST_REMEMBERED:
                self._kept.popitem(last=False)
        return value


_REMEMBERED = Remembered()  # of this process, so that a page is not worked out for each who looks
Check = Callable[[str], object]  # of the etag of the set that is about to be changed


class Governance:
    """The verbs of a fleet's owner.

    Each opens the folder anew, so that several processes and threads may have one; visits at the
    broker wait for one another.

    Args:
        folder: of the owner. actor: who is written into the log.
        offline: do not go to the broker; the next visit tells it.
        remark: gets what is worth a line. progress: of what takes long.
    """

    def __init__(
        self,
        folder: Path,
        *,
        actor: str,
        offline: bool = False,
        remark: Callable[[str], object] = lambda _: None,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        self.folder = folder
        self._actor = actor
        self._offline = offline
        self._remark = remark
        self._progress = progress

    def with_progress(self, progress: Progress) -> Governance:
        """The same, telling of its progress somewhere else."""
        return Governance(
            self.folder,
            actor=self._actor,
            offline=self._offline,
            remark=self._remark,
            progress=progress,
        )

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Raises NotFound, Conflict where others may read the key, FormatError."""
        with Workspace.open(self.folder, actor=self._actor) as found:
            yield found

    @contextmanager
    def visit(self, *, contributions: bool = False) -> Iterator[Visit]:
        """What the broker retains is read before, and what was signed is published after."""
        with self.opened() as workspace:
            if self._offline:
                yield Visit(workspace, None)
                self._match_accounts(workspace)
                self._remark("offline; the next step that is not tells the broker")
                return
            with OwnerLine(workspace, progress=self._progress) as line:
                found = line.collect(contributions=contributions)
                if found.refused:
                    said = ", ".join(f"{n} {reason}" for reason, n in sorted(found.refused.items()))
                    self._remark(f"refused from the broker: {said}")
                if found.missing:
                    parts = "part" if found.missing == 1 else "parts"
                    self._remark(f"{found.missing} {parts} not on the broker yet")
                yield Visit(workspace, line, found.refused, found.missing)
                self._match_accounts(workspace)
                try:
                    line.publish()
                except LinkError as error:
                    error.hint = f"what was decided is kept; the next visit tells it. {error.hint}"
                    raise

    def _match_accounts(self, workspace: Workspace) -> None:
        """Closes the accounts of devices that are out, and opens those of devices that are back."""
        files = broker_files(workspace)
        if files and reload.match_accounts(workspace, files) and not reload.reload_broker(files):
            self._remark(reload_hint(files))

    # ---- looking --------------------------------------------------------------------------------

    def status(self) -> Standing:
        """After a visit. Raises LinkError, Conflict."""
        with self.visit(contributions=True) as visit:
            return _standing(visit.workspace)

    def known(self) -> Standing:
        """As far as the folder knows, without a visit."""
        with self.opened() as workspace:
            return _standing(workspace)

    def proposals(
        self, status: str = "open", limit: int | None = None
    ) -> tuple[list[Proposed], int]:
        """Those of a status, oldest first, and how many there are beyond the limit."""
        with self.opened() as workspace:
            found = workspace.proposals(None, status)
            shown = found[:limit]
            return _proposed(workspace, shown), len(found) - len(shown)

    def decided(self) -> list[Proposed]:
        """Decided ones that no manifest has considered yet."""
        with self.opened() as workspace:
            found: list[Proposal] = []
            for scope in workspace.scopes():
                found += curation.undecided_and_decided(workspace, scope)[1]
            return _proposed(workspace, found)

    def manifests(
        self, class_set: str | None = None, space: str | None = None
    ) -> tuple[Scope, list[Manifested]]:
        """The manifests of a class set, oldest first. Raises NotFound, Conflict."""
        with self.opened() as workspace:
            scope = workspace.scope(class_set, space)
            head = workspace.head(scope)
            stable = head.stable.number if head and head.stable else None
            trial = head.canary.version.number if head and head.canary else None
            found = []
            for number, at, note in workspace.numbers(scope):
                one = workspace.manifest(scope, workspace.version(scope, number))
                found.append(
                    Manifested(
                        number,
                        at,
                        note,
                        len(one.classes),
                        one.previous,
                        number == stable,
                        number == trial,
                        [Remarked(**vars(remark)) for remark in one.remarks],
                    )
                )
            return scope, found

    def diff(
        self,
        first: int | None = None,
        last: int | None = None,
        class_set: str | None = None,
        space: str | None = None,
        *,
        visit: bool = True,
    ) -> tuple[Diff, Accuracy]:
        """From a manifest (else the one in force) to another (else what is taught since).

        Args:
            visit: ask the broker first; else as far as the folder knows.

        Raises:
            NotFound: no such set or manifest. Conflict: several sets fit.
        """
        with self.visit(contributions=True) if visit else self._still() as found:
            workspace = found.workspace
            scope = workspace.scope(class_set, space)
            change = curation.compare(workspace, scope, first, last)
            return _diff(change), _accuracy(workspace, scope, last)

    @contextmanager
    def _still(self) -> Iterator[Visit]:
        with self.opened() as workspace:
            yield Visit(workspace, None)

    def log(self, limit: int) -> list[StepTaken]:
        """Steps, newest first."""
        with self.opened() as workspace:
            return [_step(one) for one in workspace.log(limit)]

    # ---- deciding -------------------------------------------------------------------------------

    def policy(
        self,
        class_set: str,
        policy: str,
        space: str | None = None,
        *,
        check: Check = lambda _: None,
    ) -> list[StepTaken]:
        """Says whether what is taught is live at once (open), or once it is published (curated)."""
        if policy not in (OPEN, CURATED):
            raise UsageError(f"policy {policy!r}; expected open or curated", found=policy)
        with self.visit(contributions=True) as visit, visit.workspace.database.atomic():
            workspace = visit.workspace
            scopes = [
                scope
                for scope in workspace.scopes()
                if scope.class_set == class_set and scope.space.startswith(space or "")
            ]
            for scope in scopes:
                check(etag(workspace, scope))
            if policy == OPEN:
                if workspace.roster().policy(class_set) == OPEN:
                    raise Conflict(
                        f"class set {shown(class_set)} is open already",
                        hint="those that are there: accrue-fleet status",
                        found=class_set,
                    )
                return [_step(workspace.set_policy(class_set, "open"))]
            return [_step(one) for one in curation.curate(workspace, class_set, scopes)]

    def propose(self, class_set: str | None = None, space: str | None = None) -> Gathered:
        """Gathers what devices have taught since the manifest in force, class by class.

        Raises:
            NotFound: no such set. Conflict: several fit, or it is open.
        """
        with self.visit(contributions=True) as visit:
            scope = visit.workspace.scope(class_set, space)
            found = curation.propose(visit.workspace, scope)
            return Gathered(_proposed(visit.workspace, found), visit.refused, visit.missing)

    def gather(self) -> Gathered:
        """As `propose`, for each curated set that there is; none is no error."""
        with self.visit(contributions=True) as visit:
            workspace = visit.workspace
            found: list[Proposal] = []
            for scope in workspace.scopes():
                if workspace.roster().policy(scope.class_set) == CURATED:
                    found += curation.propose(workspace, scope)
            _standing(workspace)  # which is looked at next, and takes long in a large fleet
            return Gathered(_proposed(workspace, found), visit.refused, visit.missing)

    def approve(self, proposals: Sequence[int], remark: str = "") -> list[StepTaken]:
        """Takes proposals into the next manifest. Nothing changes before that is published.

        Raises:
            NotFound: no such one. Conflict: it was decided already. UsageError: a remark too long.
        """
        return self._decide(proposals, "approved", remark)

    def deny(self, proposals: Sequence[int], remark: str = "") -> list[StepTaken]:
        """Leaves proposals out of the next manifest; who taught them drops them then."""
        return self._decide(proposals, "denied", remark)

    def _decide(self, proposals: Sequence[int], status: str, remark: str) -> list[StepTaken]:
        text = clean_remark(remark)
        with self.opened() as workspace, workspace.database.atomic():
            return [
                _step(workspace.decide(number, status, text)) for number in dict.fromkeys(proposals)
            ]

    def publish(
        self,
        class_set: str | None = None,
        space: str | None = None,
        note: str = "",
        *,
        check: Check = lambda _: None,
    ) -> StepTaken:
        """Puts what was decided in force on every device; after a canary, puts that in force."""
        said = clean_remark(note)
        with self._changing(class_set, space, check) as (workspace, scope):
            return _step(curation.publish(workspace, scope, note=said))

    def canary(
        self,
        percent: int,
        class_set: str | None = None,
        space: str | None = None,
        note: str = "",
        *,
        check: Check = lambda _: None,
    ) -> tuple[StepTaken, list[str]]:
        """Puts what was decided in force on a share of the devices first; 0 ends that.

        Returns:
            And the names of the devices that it is for.
        """
        if not 0 <= percent <= 100:
            raise UsageError(f"percent is {percent}; expected 0 to 100", found=percent)
        said = clean_remark(note)
        with self._changing(class_set, space, check) as (workspace, scope):
            step = curation.publish(workspace, scope, percent=percent, note=said)
            return _step(step), chosen(workspace, scope)

    def rollback(
        self,
        to: int | None = None,
        class_set: str | None = None,
        space: str | None = None,
        note: str = "",
        *,
        check: Check = lambda _: None,
    ) -> StepTaken:
        """Puts an earlier manifest in force again (else the one before); ends a canary."""
        said = clean_remark(note)
        with self._changing(class_set, space, check) as (workspace, scope):
            return _step(curation.rollback(workspace, scope, to, said))

    @contextmanager
    def _changing(
        self, class_set: str | None, space: str | None, check: Check
    ) -> Iterator[tuple[Workspace, Scope]]:
        with self.visit() as visit, visit.workspace.database.atomic():
            scope = visit.workspace.scope(class_set, space)
            check(etag(visit.workspace, scope))
            yield visit.workspace, scope

    # ---- who belongs to it ----------------------------------------------------------------------

    def revoke(self, device: str) -> StepTaken:
        """Takes nothing from a device (its name or id) any more; what it said before stays.

        Raises:
            NotFound: no such device. Conflict: it is revoked already.
        """
        with self.visit() as visit, visit.workspace.database.atomic():
            workspace = visit.workspace
            found = workspace.roster().find(device)
            member = workspace.roster().member(found)
            if member.revoked is not None:
                raise Conflict(f"device {member.name} ({found}) is revoked already")
            revoked = replace(member, revoked=workspace.tick())
            return _step(
                workspace.set_device(found, revoked, "revoke", f"revoked {member.name} ({found})")
            )

    def rotate(self, device: str | None = None, grace_hours: int = GRACE_HOURS) -> list[StepTaken]:
        """Puts the new keys that devices (or one) have asked for into the roster.

        Args:
            grace_hours: how long an old key is good.

        Raises:
            NotFound: none asks, or no such device.
        """
        steps = []
        with self.visit() as visit, visit.workspace.database.atomic():
            workspace = visit.workspace
            only = None if device is None else workspace.roster().find(device)
            for found, said in reports(workspace).items():
                member = workspace.roster().member(found)
                if said is None or only not in (None, found) or not _asks_for_key(member, said):
                    continue
                assert said.next_key is not None
                until = workspace.tick() + (grace_hours * 3_600_000 << COUNTER_BITS)
                steps.append(
                    workspace.set_device(
                        found,
                        rotated(member, said.next_key.key, said.next_key.from_stamp, until),
                        "rotate",
                        f"gave {member.name} ({found}) its new key",
                    )
                )
            if not steps:
                raise NotFound(
                    "no device asks for a new key",
                    hint="on the device: accrue fleet rotate, then sync",
                )
        return [_step(one) for one in steps]

    def forget(self, device: str, *, clear: bool = False) -> tuple[StepTaken, list[StepTaken], int]:
        """Takes all that a device ever said out of every device, and takes nothing from it.

        Args:
            clear: also delete what the broker retains of it, for good.

        Returns:
            And what was published without it, and how many topics were cleared.

        Raises:
            NotFound: no such device. Conflict: it is forgotten already.
        """
        with self.visit(contributions=True) as visit:
            workspace = visit.workspace
            with workspace.database.atomic():
                found = workspace.roster().find(device)
                member = workspace.roster().member(found)
                if member.forgotten is not None:
                    raise Conflict(f"device {member.name} ({found}) is forgotten already")
                stamp = workspace.tick()
                gone = replace(member, revoked=member.revoked or stamp, forgotten=stamp)
                said = f"forgot {member.name} ({found})"
                step = workspace.set_device(found, gone, "forget", said)
                published = curation.without_forgotten(workspace)
            cleared = visit.line.clear_device(found) if clear and visit.line else 0
        return _step(step), [_step(one) for one in published], cleared

    # ---- back -----------------------------------------------------------------------------------

    def undo(self, step: int | None = None) -> StepTaken:
        """Takes a step back: the newest, or this one. Raises NotFound, Conflict."""
        with self.visit() as visit:
            return _step(visit.workspace.undo(step))

    def chosen(self, class_set: str, space: str) -> list[str]:
        """Names of the devices that try a manifest now."""
        with self.opened() as workspace:
            return chosen(workspace, workspace.scope(class_set, space))


# ---- parts of it --------------------------------------------------------------------------------


def broker_files(workspace: Workspace) -> BrokerFolder | None:
    """The broker's folder, where this machine has it."""
    files = BrokerFolder(workspace.folder / BROKER_FOLDER)
    return files if files.accounts_file.exists() else None


def reload_hint(files: BrokerFolder | None) -> str:
    """What is left to do where no broker on this machine was told of its accounts."""
    if files is None:
        return "add the account to your broker; its password was sent to the device"
    return (
        f"the broker was not told; copy {files.path} to it if it is elsewhere, and reload it: "
        "sudo systemctl reload mosquitto"
    )


def reports(workspace: Workspace) -> dict[str, Report | None]:
    """Device -> its signed report, or None where it sent none that holds."""
    trust = RosterTrust(workspace.roster())
    found: dict[str, Report | None] = dict.fromkeys(workspace.roster().devices)
    for device, (_, data) in workspace.reports().items():
        if data and device in found:
            with suppress(Rejected):
                found[device] = Report.open(data, trust, workspace.fleet, device)
    return found


def chosen(workspace: Workspace, scope: Scope) -> list[str]:
    """Names of the devices that try the canary of a set."""
    head = workspace.head(scope)
    if head is None or head.canary is None:
        return []
    canary = head.canary
    return sorted(m.name for d, m in workspace.roster().devices.items() if canary.chooses(d))


def etag(workspace: Workspace, scope: Scope) -> str:
    """Of what is in force in a set, its policy, and what was decided for it."""
    head = workspace.head(scope)
    _, decided = curation.undecided_and_decided(workspace, scope)
    text = json.dumps(
        [
            0 if head is None else head.version,
            workspace.roster().policy(scope.class_set),
            [(one.id, one.status, one.remark) for one in decided],
        ]
    )
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


def _standing(workspace: Workspace) -> Standing:
    roster = workspace.roster()
    return Standing(
        workspace.fleet,
        fingerprint(workspace.public),
        roster.version,
        workspace.visited_at,
        workspace.untold,
        _devices(workspace),
        [_set(workspace, scope) for scope in workspace.scopes()],
    )


def _devices(workspace: Workspace) -> list[FleetDevice]:
    roster, said_by = workspace.roster(), reports(workspace)
    states = {
        device: Presence.from_bytes((state or "").encode())
        for device, (state, _) in workspace.reports().items()
    }
    found = []
    for device, member in sorted(roster.devices.items(), key=lambda item: item[1].name):
        said, present = said_by[device], states.get(device)
        state = present.state if present else "never seen"
        found.append(
            FleetDevice(
                device,
                member.name,
                "forgotten" if member.forgotten else "revoked" if member.revoked else state,
                said.agent if said else None,
                stamp_ms(said.stamp) / 1000 if said else None,
                said.roster if said else None,
                said.unsent if said else None,
                said.lag_ms if said else None,
                dict(said.refused) if said else {},
                said is not None and _asks_for_key(member, said),
                [DeviceSet(**one.to_body()) for one in said.sets] if said else [],
            )
        )
    return found


def _asks_for_key(member: Member, said: Report) -> bool:
    return said.next_key is not None and all(w.key != said.next_key.key for w in member.keys)


def _set(workspace: Workspace, scope: Scope) -> FleetSet:
    head = workspace.head(scope)
    policy = workspace.roster().policy(scope.class_set)
    said = workspace.public, scope, workspace.ledger(scope).stamp(), workspace.roster().version
    held: tuple[str, int, int] | None = _REMEMBERED.get(said)
    if held is None:
        summary = workspace.ledger(scope).summary()
        held = _REMEMBERED.put(said, (summary.digest, len(summary.classes), summary.shots))
    digest, classes, shots = held
    waiting, decided = 0, 0
    if policy == CURATED:
        key = *said, head.version if head else 0
        drafts: frozenset[tuple[str, str, int]] | None = _REMEMBERED.get(key)
        if drafts is None:
            drafts = _REMEMBERED.put(key, curation.drafts(workspace, scope))
        proposals = curation.undecided_and_decided(workspace, scope)[1]
        seen = {(device, p.class_id, n) for p in proposals for device, n in p.entries}
        waiting, decided = len(drafts - seen), len(proposals)
    return FleetSet(
        scope.class_set,
        scope.space,
        scope.dim,
        policy,
        digest,
        classes,
        shots,
        head.stable.number if head and head.stable else None,
        Trial(head.canary.percent, head.canary.version.number) if head and head.canary else None,
        waiting,
        decided,
        etag(workspace, scope),
    )


def _proposed(workspace: Workspace, found: Sequence[Proposal]) -> list[Proposed]:
    names = {device: member.name for device, member in workspace.roster().devices.items()}
    changes = _changes(workspace, [one for one in found if one.status == "open"])
    return [
        Proposed(
            one.id,
            one.name,
            one.class_id,
            one.scope.class_set,
            one.scope.space,
            [ProposedBy(d, names.get(d, d), revision) for d, revision in one.entries],
            one.status,
            one.remark,
            one.at,
            changes.get(one.id),
        )
        for one in found
    ]


def _changes(workspace: Workspace, found: Sequence[Proposal]) -> dict[int, Diff]:
    """What approving each would change; those that are known already are not worked out again."""
    keys: dict[int, Hashable] = {}
    for one in found:
        head = workspace.head(one.scope)
        keys[one.id] = (workspace.public, one.id, one.parcel, head.version if head else 0)
    told: dict[int, Diff | None] = {number: _REMEMBERED.get(key) for number, key in keys.items()}
    fresh = [one for one in found if told[one.id] is None]
    for number, change in curation.proposed_differences(workspace, fresh).items():
        told[number] = _REMEMBERED.put(keys[number], _diff(change))
    return {number: change for number, change in told.items() if change is not None}


def _accuracy(workspace: Workspace, scope: Scope, number: int | None) -> Accuracy:
    head = workspace.head(scope)
    if number is None and head is not None:
        newest = head.canary.version if head.canary else head.stable
        number = newest.number if newest else None
    found: list[SetReport] = []
    for said in reports(workspace).values():
        found += [
            one
            for one in (said.sets if said else ())
            if (one.class_set, one.space) == (scope.class_set, scope.space)
            and one.manifest == number
            and one.accuracy is not None
            and one.before is not None
        ]
    if not found:
        return Accuracy(number)
    return Accuracy(
        number,
        len(found),
        sum(one.before or 0 for one in found) / len(found) / TEN_THOUSANDTHS,
        sum(one.accuracy or 0 for one in found) / len(found) / TEN_THOUSANDTHS,
    )


def _step(step: Step) -> StepTaken:
    return StepTaken(**vars(step))


def _diff(change: Difference) -> Diff:
    return Diff(
        [ClassChange(**vars(one)) for one in change.added],
        [ClassChange(**vars(one)) for one in change.changed],
        [ClassChange(**vars(one)) for one in change.removed],
        [
            Clash(
                one.first,
                one.second,
                one.same_name,
                None if math.isnan(one.cosine) else one.cosine,
            )
            for one in change.collisions
        ],
    )
