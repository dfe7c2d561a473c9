"""A device at its broker: what it teaches goes out, what others teach comes in, the owner decides.

`Following` drives an exchange and follows the owner's documents: a new roster, and for a curated
class set the manifest, which is fetched, installed under the guard, and reported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from accrue import __version__
from accrue.errors import AccrueError, Refused, Rejected, StoreError
from accrue.learn.guard import LEAST_SHOTS, Measured
from accrue.service.fleet import COMING_FILE, PARCELS, Fleet, Installed
from accrue.service.guarded import Installation, install
from accrue.store import fleet as store_fleet
from accrue.store import shown
from accrue.store.failures import translated
from accrue.sync.archive import open_parcel
from accrue.sync.clock import COUNTER_BITS, Clock, stamp_ms, wall_clock_ms
from accrue.sync.content import sha256
from accrue.sync.discovery import HomeAssistant, Publication
from accrue.sync.exchange import Exchange
from accrue.sync.identity import Identity, write_private
from accrue.sync.inbox import Inbox
from accrue.sync.ledger import Applied, Heard
from accrue.sync.link import Loop, Message, Sent, Timing
from accrue.sync.manifest import Coming, Manifest, ManifestHead, Version
from accrue.sync.outbox import DiskOutbox
from accrue.sync.report import TEN_THOUSANDTHS, TEXT_LIMIT, NextKey, Report, SetReport
from accrue.sync.roster import Member, Roster, RosterHead, RosterTrust, open_roster
from accrue.sync.shelf import StoreLedger
from accrue.sync.topics import Address
from accrue.sync.trust import Reason

OUTBOX_FILE = "outbox.db"
HOME_FILE = "home-assistant.json"
LOOK_AT_EACH = 16  # devices that changed; with more of them all that is retained is read again
_BY_ROSTER: tuple[Reason, ...] = ("unknown-device", "revoked", "forged")


class _Timed(StoreLedger):
    """Notes how long after it was said the last contribution was applied."""

    lag_ms: int | None = None

    def hear(self, heard: Sequence[Heard]) -> Applied:
        applied = super().hear(heard)
        if applied.taken:
            newest = max(one.contribution.revision for one in heard)
            self.lag_ms = max(0, wall_clock_ms() - stamp_ms(newest))
        return applied


class Following:
    """A member of a fleet, connected. A context manager: opened inside, stopped at the end.

    Args:
        told: gets, in a line, what happened.
        loop, timing: as of `Exchange`.

    Attributes:
        exchange, ledger, trust. installed: the manifest in force. problem: why this device is cut
            off, or empty.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        told: Callable[[str], object] = lambda _: None,
        loop: Loop | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.fleet = fleet
        self.membership = fleet.membership()
        self.identity: Identity = fleet.identity()
        self.trust = RosterTrust(fleet.roster())
        self.installed = Installed.load(fleet.folder)
        self.problem = ""
        self._told = told
        self._store = fleet.box.store(create=True)
        self._store.join_fleet(self.membership.fleet, self.identity.device)
        self.ledger = _Timed(self._store, self._sign, name_of=self.name_of)
        self.inbox = Inbox(
            self.ledger.scope,
            self.trust,
            Clock(),
            self.ledger.part,
            known=self.ledger.revisions(),
            own=self.identity.device,
        )
        self._outbox = DiskOutbox(fleet.folder / OUTBOX_FILE)
        self._reported: Report | None = None
        self._reported_bytes: bytes | None = None
        self._refused_before: Counter[Reason] = Counter()
        self._looking = False
        self._home_refused = False
        self._connection = 0
        self._head: ManifestHead | None = None
        self._fetching: set[str] = set()
        self._manifest: tuple[Version, Manifest] | None = None
        self.home = HomeAssistant(
            fleet.folder / HOME_FILE,
            prefix=fleet.box.settings.home_assistant,
            fleet=self.membership.fleet,
            device=self.identity.device,
            name=self.name_of(self.identity.device),
            software=__version__,
            versions=self.ledger.policy == "curated",
        )
        self.exchange = Exchange(
            self.ledger,
            self.inbox,
            fleet.endpoint(),
            outbox=self._outbox,
            on_applied=self._applied,
            on_document=self._document,
            on_other=lambda message: self.home.hear(message.topic, message.payload),
            report=self._report,
            loop=loop,
            timing=timing,
        )
        self._check_membership()

    def __enter__(self) -> Following:
        self.exchange.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.exchange.stop()
        finally:
            self.exchange.close()
            self._outbox.close()

    def step(self, timeout_s: float) -> None:
        """Waits at most so long for something to happen, and deals with it."""
        self.exchange.step(timeout_s)
        connections = self.exchange.link.connections
        if connections != self._connection:
            self._connection, self._looking = connections, False
            self.home.reconnected()
            if self.home.subscriptions:
                self.exchange.link.subscribe(self.home.subscriptions)
        self._complete()
        if self.home.is_used and self.exchange.is_ready:
            self._tell_home()

    @property
    def is_settled(self) -> bool:
        """Nothing is under way: all that the fleet had to say is applied, all own acknowledged."""
        return (
            self.exchange.is_settled
            and self.home.is_settled
            and self.trust.roster is not None
            and not self._looking
            and not self._fetching
            and self._manifest is None
            and not self._lacks_manifest
        )

    @property
    def refused(self) -> dict[str, int]:
        """Messages that were not taken, by reason, without harmless repetitions."""
        found = self.inbox.refused.items()
        return {reason: n for reason, n in found if n and reason != "replayed"}

    def name_of(self, device: str) -> str:
        roster = self.trust.roster
        member = roster.devices.get(device) if roster else None
        return member.name if member else device

    def _tell_home(self) -> None:
        """Home Assistant, where it is in use; and what was told there before and is no more."""
        curated = self.ledger.policy == "curated"
        self.home.call(self.name_of(self.identity.device))
        self.home.follow_versions(curated)
        if curated:
            latest = self._head and self._head.version_for(self.identity.device)
            self.home.version(
                self.installed.number,
                latest.number if latest else None,
                self.ledger.scope.class_set,
            )
        for one in self.home.due():
            self.exchange.link.send(
                Message(one.topic, one.payload, one.kind), partial(self._told_home, one)
            )

    def _told_home(self, one: Publication, sent: Sent) -> None:
        if sent is Sent.DONE:
            self.home.acknowledged(one)
        elif sent is not Sent.LOST:
            self.home.refused(one)
            if self._home_refused:
                return
            self._home_refused = True
            self._told(
                "the broker does not let this device announce itself to Home Assistant: "
                "accrue-fleet broker --home-assistant PREFIX"
            )

    def _sign(self, revision: int, data: bytes) -> bytes:
        return self.identity.key_at(revision).sign(data)

    def _applied(self, applied: Applied) -> None:
        if applied.summary:
            self._told(applied.summary)

    # ---- the owner's documents ------------------------------------------------------------------

    def _document(self, address: Address, payload: bytes) -> None:
        if not payload:
            return
        try:
            if address.name == "roster":
                self._heard_roster(payload)
            elif address.name == "manifest":
                self._heard_head(payload)
            else:
                self._heard_coming(payload)
        except Rejected as error:
            self._refuse(error)

    def _refuse(self, error: Rejected) -> None:
        self.inbox.refused[error.reason] += 1  # type: ignore[index]
        self._told(f"refused: {error.message}")

    def _heard_roster(self, payload: bytes) -> None:
        head = RosterHead.open(payload, self.membership.owner)
        if head.version < self.trust.version:
            raise Rejected(
                f"roster of version {head.version}; version {self.trust.version} was seen",
                reason="replayed",
            )
        if head.version > self.trust.version:
            self._fetching.add("roster")
            self._refused_before = self.inbox.refused.copy()
            self.exchange.fetch(
                head.content.sha256, lambda content: self._new_roster(payload, content)
            )

    def _new_roster(self, head: bytes, content: bytes) -> None:
        self._fetching.discard("roster")
        before = self.trust.roster
        try:
            roster = open_roster(head, content, self.membership.owner, self.membership.fleet)
            renewed = self.trust.renew(roster)
        except Rejected as error:
            self._refuse(error)
            return
        if not renewed:
            return
        self.fleet.keep_roster(head, content)
        self._told(f"roster {roster.version}: {len(roster.devices)} devices")
        self._settle_keys(roster)
        self._check_membership()
        self._forget(roster)
        self._look_at(before, roster)
        self._follow_policy()
        self.exchange.report_soon()

    def _settle_keys(self, roster: Roster) -> None:
        member = roster.devices.get(self.identity.device)
        if member is None:
            return
        settled = self.identity.settled(frozenset(window.key for window in member.keys))
        if settled != self.identity:
            new = settled.public != self.identity.public
            self.identity = settled
            settled.save(self.fleet.folder)
            if new:
                with self._store.database(write=True) as db:
                    store_fleet.sign_again(db, settled.keys[-1].from_stamp)
                self._told("the new key is in use")

    def _check_membership(self) -> None:
        roster = self.trust.roster
        member = roster.devices.get(self.identity.device) if roster else None
        problem = ""
        if roster is not None and (member is None or member.revoked is not None):
            problem = (
                "the owner has taken this device out of the fleet: nothing that it says from now "
                "on counts"
            )
        if problem and problem != self.problem:
            self._told(problem)
        self.problem = problem

    def _forget(self, roster: Roster) -> None:
        """Drops what devices said that are forgotten, or are in the roster no longer."""
        for device in sorted({device for device, _ in self.ledger.revisions()}):
            member = roster.devices.get(device)
            if member is None or member.forgotten is not None:
                self.ledger.forget(device)
                self.inbox.forget(device)
                self._told(f"forgot what {device} said")

    def _look_at(self, before: Roster | None, roster: Roster) -> None:
        """What was refused under the roster before may be good under this one."""
        known = before.devices if before else {}
        changed = [
            device
            for device, member in roster.devices.items()
            if device != self.identity.device and not _takes_the_same(known.get(device), member)
        ]
        for reason in _BY_ROSTER:  # refused by the old one since: it is asked for again
            self.inbox.refused[reason] = self._refused_before[reason]
        if changed and self.exchange.link.is_up:
            self._looking = True
            if len(changed) > LOOK_AT_EACH:
                self.exchange.look_again(self._looked)
            else:
                self.exchange.look_at(changed, self._looked)

    def _looked(self) -> None:
        self._looking = False

    # ---- the manifest ---------------------------------------------------------------------------

    def _heard_head(self, payload: bytes) -> None:
        head = ManifestHead.open(payload, self.membership.owner)
        scope = self.ledger.scope
        if head.scope != (scope.fleet, scope.class_set, scope.space, scope.dim):
            raise Rejected(
                "a manifest of another class set on this one's topic", reason="wrong-scope"
            )
        if head.version < self.installed.head:
            raise Rejected(
                f"manifest head of version {head.version}; version {self.installed.head} was seen",
                reason="replayed",
            )
        self._head = head
        self._follow_policy()

    def _follow_policy(self) -> None:
        """Open: everything counts. Curated: the content that the head has for this device."""
        roster, head = self.trust.roster, self._head
        if roster is None or self.problem:  # who was taken out keeps what is there
            return
        if roster.policy(self.ledger.scope.class_set) == "open":
            if self.ledger.policy == "curated":
                applied = self.ledger.open_policy("the owner opened the class set")
                self._keep(Installed(head=self.installed.head))
                self._told(applied.summary or "the owner opened the class set")
            return
        version = None if head is None else head.version_for(self.identity.device)
        if head is None or version is None:
            return  # `_without_manifest`, once it is sure that there is none
        digest = version.content.sha256
        if head.version > self.installed.head or self.installed.wanted != version.number:
            self._keep(replace(self.installed, head=head.version, wanted=version.number))
        curated = self.ledger.policy == "curated"
        if (digest == self.installed.sha256 and curated) or digest == self.installed.refused_sha256:
            if digest == self.installed.sha256:
                self._keep(replace(self.installed, refused="", refused_sha256=""))
            return
        self._fetching.add(digest)
        self.exchange.fetch(digest, lambda data: self._got_manifest(head, version, data))

    def _got_manifest(self, head: ManifestHead, version: Version, data: bytes) -> None:
        self._fetching.discard(version.content.sha256)
        if self._head is None or self._head.version_for(self.identity.device) != version:
            return  # another one is wanted by now
        try:
            manifest = Manifest.open(data, head, version.content)
        except Rejected as error:
            self._refuse(error)
            return
        self._manifest = version, manifest
        for listed in manifest.classes.values():
            pointer = listed.parcel
            if not self._parcel_path(pointer.sha256).exists():
                self._fetching.add(pointer.sha256)
                self.exchange.fetch(pointer.sha256, self._got_parcel)

    def _got_parcel(self, data: bytes) -> None:
        digest = sha256(data)
        write_private(self._parcel_path(digest), data)
        self._fetching.discard(digest)

    def _parcel_path(self, digest: str) -> Path:
        return self.fleet.folder / PARCELS / digest

    @property
    def _lacks_manifest(self) -> bool:
        """Whether the set is curated, and nothing that the owner signed says what is in it."""
        roster, head = self.trust.roster, self._head
        return (
            roster is not None
            and not self.problem
            and roster.policy(self.ledger.scope.class_set) == "curated"
            and self.ledger.policy == "open"
            and (head is None or head.version_for(self.identity.device) is None)
        )

    def _complete(self) -> None:
        """Installs the manifest once all of it is here."""
        if self._lacks_manifest and self.exchange.is_ready and not self._fetching:
            applied = self.ledger.install([], {}, "the class set is curated and has no manifest")
            self._told(applied.summary or "the class set is curated and has no manifest")
        if self._manifest is None or self._fetching:
            return
        (version, manifest), self._manifest = self._manifest, None
        names = {class_id: one.name for class_id, one in self.ledger.view().classes.items()}
        try:
            entries = self._entries(manifest)
            done = install(
                self.fleet.box,
                self.ledger,
                entries,
                manifest.considered,
                f"installed manifest {version.number}",
            )
        except (Refused, Rejected, StoreError) as error:
            self._rolled_back(version, error)
            return
        self._committed(version, manifest, done, names)

    def _entries(self, manifest: Manifest) -> list[Heard]:
        """What a manifest lists, each checked against its digest. Raises Rejected."""
        roster = self.trust.roster
        found = []
        for class_id, listed in manifest.classes.items():
            path = self._parcel_path(listed.parcel.sha256)
            with translated(path):
                data = path.read_bytes()
            here = {one.contribution.device: one for one in open_parcel(listed.parcel.check(data))}
            for entry in listed.entries:
                one = here.get(entry.device)
                if (
                    one is None
                    or one.contribution.revision != entry.revision
                    or one.contribution.class_id != class_id
                    or sha256(one.envelope) != entry.sha256
                ):
                    raise Rejected(
                        f"manifest {manifest.number}: its parcel of class {class_id} does not "
                        "hold what it lists",
                        reason="forged",
                    )
                if one.contribution.scope != self.ledger.scope:
                    raise Rejected("manifest with another scope", reason="wrong-scope")
                member = roster.devices.get(entry.device) if roster else None
                if member is None or member.forgotten is None:
                    found.append(one)
        return found

    def _committed(
        self, version: Version, manifest: Manifest, done: Installation, names: dict[str, str]
    ) -> None:
        names |= {class_id: one.name for class_id, one in self.ledger.view().classes.items()}
        mine = tuple(
            (remark.class_id, remark.taken, remark.text)
            for remark in manifest.remarks
            if remark.device == self.identity.device
        )
        self._keep(
            Installed(
                head=self.installed.head,
                number=version.number,
                sha256=version.content.sha256,
                wanted=version.number,
                accuracy=_share(done.after),
                before=_share(done.before),
                left_out=done.after.shots,
                remarks=mine,
            )
        )
        self._told(done.applied.summary or f"installed manifest {version.number}")
        for class_id, taken, text in mine:
            verdict = "was approved" if taken else "was not approved"
            said = f": {text}" if text else ""
            name = shown(names.get(class_id, class_id))
            self._told(f"what this device taught of {name} {verdict}{said}")
        self._drop_parcels(manifest)

    def _rolled_back(self, version: Version, error: AccrueError) -> None:
        reason = error.message[:TEXT_LIMIT]
        again = isinstance(error, StoreError)  # as where the disk is full: with the next start
        self._keep(
            replace(
                self.installed,
                refused=reason,
                refused_sha256="" if again else version.content.sha256,
            )
        )
        self._told(f"rolled manifest {version.number} back: {reason}")

    def _keep(self, installed: Installed) -> None:
        if installed != self.installed:
            self.installed = installed
            installed.save(self.fleet.folder)
            self.exchange.report_soon()

    def _drop_parcels(self, manifest: Manifest) -> None:
        needed = {listed.parcel.sha256 for listed in manifest.classes.values()}
        folder = self.fleet.folder / PARCELS
        if folder.exists():
            with translated(folder):
                for path in folder.iterdir():
                    if path.name not in needed:
                        path.unlink()

    def _heard_coming(self, payload: bytes) -> None:
        coming = Coming.open(payload, self.membership.owner)
        path = self.fleet.folder / COMING_FILE
        if path.exists() and path.read_bytes() == payload:
            return
        write_private(path, payload)
        said = f": {coming.note}" if coming.note else ""
        self._told(
            f"class set {coming.class_set} will be taught with space {coming.space[:12]} too{said}"
        )

    # ---- the report -----------------------------------------------------------------------------

    def _report(self) -> bytes | None:
        """The signed report; the same bytes as long as there is nothing new to say."""
        scope, installed = self.ledger.scope, self.installed
        seen = self.ledger.view()
        said = Report(
            fleet=scope.fleet,
            device=self.identity.device,
            stamp=0,
            agent=__version__,
            roster=self.trust.version,
            unsent=len(self.ledger.unsent()),
            lag_ms=self.ledger.lag_ms,
            refused=self.refused,
            sets=(
                SetReport(
                    scope.class_set,
                    scope.space,
                    seen.digest(),
                    sum(one.counts_as is None for one in seen.classes.values()),
                    sum(len(one.shots) for one in seen.classes.values()),
                    installed.number,
                    installed.wanted,
                    installed.refused,
                    _ten_thousandths(installed.accuracy),
                    _ten_thousandths(installed.before),
                    installed.left_out,
                    len(self.ledger.drafts()),
                ),
            ),
            next_key=NextKey(self.identity.following.public, self.identity.following.from_stamp)
            if self.identity.following
            else None,
        )
        if said != self._reported or self._reported_bytes is None:
            self._reported = said
            stamp = wall_clock_ms() << COUNTER_BITS
            self._reported_bytes = replace(said, stamp=stamp).sealed(self.identity.key_at(stamp))
        return self._reported_bytes


def _takes_the_same(before: Member | None, after: Member) -> bool:
    """Whether nothing of a device is taken under this roster that was not under the one before."""
    if before is None:
        return False
    cuts = (before.revoked, before.forgotten) == (after.revoked, after.forgotten)
    return cuts and before.keys == after.keys


def _share(measured: Measured) -> float | None:
    if measured.shots < LEAST_SHOTS or math.isnan(measured.accuracy):
        return None
    return measured.accuracy


def _ten_thousandths(share: float | None) -> int | None:
    return None if share is None else round(share * TEN_THOUSANDTHS)
