"""A device and its fleet: joining and leaving, a new key, and what is to be known of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from accrue import __version__
from accrue.errors import Conflict, FormatError
from accrue.service.box import Box
from accrue.service.member import is_member
from accrue.store import Store
from accrue.store.failures import translated
from accrue.sync.clock import COUNTER_BITS, wall_clock_ms
from accrue.sync.endpoint import Endpoint
from accrue.sync.enrol import (
    LARGEST_MESSAGE_BYTES,
    Admission,
    Applicant,
    Enrolment,
    open_ticket,
    read_code,
)
from accrue.sync.identity import (
    ENROLLED,
    FOLDER,
    Broker,
    Identity,
    Membership,
    fingerprint,
    leave,
    read_file,
    write_private,
)
from accrue.sync.joining import ask
from accrue.sync.roster import Roster, clean_device_name, open_roster
from accrue.sync.shelf import StoreLedger

CA_FILE, ROSTER_FILE, INSTALLED_FILE, COMING_FILE = "ca.crt", "roster", "installed.json", "coming"
PARCELS = "parcels"
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Installed:
    """Which content of a curated set is in force on this device, and which should be.

    Attributes:
        head: version of the newest head that was seen. number, sha256: of the content in force.
        wanted: number of the content that should be. refused, refused_sha256: why one was rolled
            back, in words, and which.
        accuracy, before: share of kept shots that are right when left out, with this content and
            with the one before; None where there are too few to say. left_out: how many shots.
        remarks: (class id, whether it was taken, text) on what this device had taught.
    """

    head: int = 0
    number: int = 0
    sha256: str = ""
    wanted: int = 0
    refused: str = ""
    refused_sha256: str = ""
    accuracy: float | None = None
    before: float | None = None
    left_out: int = 0
    remarks: tuple[tuple[str, bool, str], ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Installed:
        """Nothing, where there is no such file or it cannot be read: it is found out again."""
        try:
            found = json.loads((folder / INSTALLED_FILE).read_text())
            known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
            known["remarks"] = tuple((c, bool(t), str(x)) for c, t, x in known.get("remarks", ()))
            return cls(**known)
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def save(self, folder: Path) -> None:
        write_private(folder / INSTALLED_FILE, json.dumps(asdict(self)).encode())


@dataclass(frozen=True)
class FleetStatus:
    """What a device knows of its fleet.

    Attributes:
        fingerprint: of its key. owner: fingerprint of the owner's key. policy: of its class set.
        roster: version. devices: in the roster. revoked: whether this one is cut off.
        unsent: own contributions that the broker has not acknowledged. peers: devices that
            something is known of. drafts: own work that the owner has not looked at.
        new_key: fingerprint of a key that waits for the owner; empty: none.
        digest: of all that counts here; two devices with the same one have learned the same.
    """

    device: str
    fingerprint: str
    fleet: str
    name: str
    owner: str
    broker: str
    roster: int
    devices: int
    revoked: bool
    policy: str
    unsent: int
    peers: int
    drafts: int
    new_key: str
    digest: str
    installed: Installed
    version: str = __version__


class Fleet:
    """The fleet's side of a box. Nothing is read before it is needed."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.folder = box.settings.state / FOLDER

    def identity(self) -> Identity:
        """Made at the first call."""
        with translated(self.folder):
            return Identity.load_or_create(self.folder)

    def applicant(self, name: str = "") -> Applicant:
        """What the owner needs to let this device in without a network."""
        return Applicant.of(self.identity(), name and clean_device_name(name))

    def membership(self) -> Membership:
        """Raises NotFound where the device is in no fleet."""
        return Membership.load(self.folder)

    def is_member(self) -> bool:
        return is_member(self.box)

    # ---- joining and leaving --------------------------------------------------------------------

    def join(
        self,
        code: str,
        broker: Broker,
        *,
        name: str = "",
        seconds: float = 900.0,
        waiting: Callable[[], object] = lambda: None,
    ) -> Membership:
        """Asks the owner of a fleet to let this device in, and remembers the fleet.

        Args:
            code: as the owner told it. broker: where it is; `ca` only if it is known already.
            waiting: called each time that the request has gone out.

        Raises:
            Conflict: it is in a fleet. UsageError: no code. LinkError, NotFound, Rejected.
        """
        self._require_free()
        fleet, secret = read_code(code)
        identity = self.identity()
        ca: Path | None = None
        if broker.ca:
            ca = self.folder / CA_FILE
            write_private(ca, broker.ca.encode())
        where = Endpoint(broker.host, broker.port, ca=ca, tls=broker.tls)
        admission = ask(
            identity,
            fleet,
            secret,
            name and clean_device_name(name),
            where,
            seconds=seconds,
            waiting=waiting,
        )
        return self._enter(admission, admission.broker(broker.host, broker.port, broker.tls), name)

    def join_by_ticket(self, file: Path, *, host: str = "", name: str = "") -> Membership:
        """Joins by a file that the owner made for this device (`accrue-fleet roster add`).

        Raises:
            Conflict: it is in a fleet. NotFound: no such file. Rejected: it is for another device.
        """
        self._require_free()
        data = read_file(
            file,
            LARGEST_MESSAGE_BYTES,
            missing=f"no file {file}",
            hint="the owner makes it: accrue-fleet roster add FILE --ticket OUT",
        )
        admission = open_ticket(self.identity(), data)
        return self._enter(admission, admission.broker(host), name)

    def enrol(self, file: Path) -> Membership | None:
        """Takes up what was prepared for this device before its first start, once.

        Needs no network: the broker is found when it is there. An identity that the device had
        made of itself is set aside.

        Returns:
            The fleet that was joined; None where there is nothing to take up: no file or a blank
            one, or one that was taken up before, also if the device has left the fleet since.

        Raises:
            Conflict: it is another device of a fleet. FormatError, Rejected: it is no enrolment.
        """
        with translated(file):
            data = file.read_bytes() if file.exists() else b""
        mark, digest = self.folder / ENROLLED, hashlib.sha256(data).hexdigest()
        if not data.strip() or (mark.exists() and mark.read_text().strip() == digest):
            return None
        enrolment = Enrolment.load(file)
        device = enrolment.identity.device
        if self.is_member():
            found = self.membership()
            if self.identity().device != device:
                raise Conflict(
                    f"this device is {self.identity().device} of fleet {found.fleet}; "
                    f"it was prepared as {enrolment.name} ({device})",
                    hint="to be that one: accrue fleet leave --yes, and start it again",
                    found=self.identity().device,
                    expected=device,
                )
            write_private(mark, f"{digest}\n".encode())
            return None
        admission = open_ticket(enrolment.identity, enrolment.ticket)
        enrolment.identity.replace(self.folder)
        joined = self._enter(admission, admission.broker(), enrolment.name)
        write_private(mark, f"{digest}\n".encode())
        return joined

    def _require_free(self) -> None:
        if self.is_member():
            found = self.membership()
            raise Conflict(
                f"this device is {found.name or 'a device'} of fleet {found.fleet} already",
                hint="leave it first: accrue fleet leave",
                found=found.fleet,
            )

    def _enter(self, admission: Admission, broker: Broker, name: str) -> Membership:
        identity = self.identity()
        membership = Membership(admission.fleet, admission.owner, name, broker)
        store = self.box.store(create=True)
        with store.atomic():
            store.join_fleet(admission.fleet, identity.device)
            ledger_of(store).catch_up()
            membership.save(self.folder)  # last: what fails before leaves the device outside
        return membership

    def leave(self) -> Membership:
        """Forgets the fleet, and what others have taught here. What this device taught stays."""
        membership = self.membership()
        store = self.box.store()
        if store.joined is not None:
            ledger_of(store).leave()
        leave(self.folder)
        return membership

    # ---- keys, roster, status -------------------------------------------------------------------

    def rotate(self) -> Identity:
        """Makes a new key. It is used once the owner has put it into the roster."""
        self.membership()
        identity = self.identity().with_following(wall_clock_ms() << COUNTER_BITS)
        identity.save(self.folder)
        return identity

    def roster(self) -> Roster | None:
        """The newest roster that was accepted. Raises FormatError where it was altered since."""
        path = self.folder / ROSTER_FILE
        if not path.exists():
            return None
        membership = self.membership()
        with translated(path):
            data = path.read_bytes()
        size = int.from_bytes(data[:_LENGTH_BYTES], "little")
        head, content = data[_LENGTH_BYTES:][:size], data[_LENGTH_BYTES + size :]
        try:
            return open_roster(head, content, membership.owner, membership.fleet)
        except FormatError as error:
            raise FormatError(
                f"{path} is not the roster that was kept: {error.message}",
                hint="delete it; the next sync fetches it again",
                path=str(path),
            ) from None

    def keep_roster(self, head: bytes, content: bytes) -> None:
        data = len(head).to_bytes(_LENGTH_BYTES, "little") + head + content
        write_private(self.folder / ROSTER_FILE, data)

    def endpoint(self) -> Endpoint:
        broker = self.membership().broker
        ca = self.folder / CA_FILE if broker.ca else None
        return Endpoint(broker.host, broker.port, broker.user, broker.password, ca, broker.tls)

    def status(self) -> FleetStatus:
        """Raises NotFound where the device is in no fleet."""
        membership, identity, roster = self.membership(), self.identity(), self.roster()
        member = roster.devices.get(identity.device) if roster else None
        store = self.box.store(create=True)
        ledger = ledger_of(store)
        return FleetStatus(
            device=identity.device,
            fingerprint=fingerprint(identity.public),
            fleet=membership.fleet,
            name=(member.name if member else "") or membership.name,
            owner=fingerprint(membership.owner),
            broker=f"{membership.broker.host}:{membership.broker.port}",
            roster=roster.version if roster else 0,
            devices=len(roster.devices) if roster else 0,
            revoked=roster is not None and (member is None or member.revoked is not None),
            policy=ledger.policy,
            unsent=len(ledger.unsent()),
            peers=len({device for device, _ in ledger.revisions()}),
            drafts=len(ledger.drafts()),
            new_key=fingerprint(identity.following.public) if identity.following else "",
            digest=ledger.view().digest(),
            installed=Installed.load(self.folder),
        )


def ledger_of(store: Store) -> StoreLedger:
    """The ledger of a store that belongs to a fleet: the one that it has already, if any."""
    voice = store.voice
    return voice if isinstance(voice, StoreLedger) else StoreLedger(store)
