"""The owner at the broker: reads all that is retained, publishes what was signed, lets devices in.

Each visit is short: connect, take the snapshot, act, publish, go. What the broker retains is made
to be what the owner's folder says, so a broker that lost everything is filled again by any visit.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from accrue.errors import AccrueError, BrokerUnreachable, Conflict, LinkError, NotFound, Rejected
from accrue.sync.broker import BrokerFolder, new_password
from accrue.sync.chunks import CHUNK_BYTES, cut
from accrue.sync.contribution import Contribution, Scope
from accrue.sync.endpoint import Endpoint
from accrue.sync.enrol import Admission, CodeKeys, Request, make_reply
from accrue.sync.identity import ALPHABET, Broker
from accrue.sync.inbox import Inbox
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent
from accrue.sync.reload import reload_broker
from accrue.sync.roster import KeyWindow, Member, RosterHead, RosterTrust
from accrue.sync.signed import parse, signed_bytes, split
from accrue.sync.topics import BY_NAME, Address, Topics
from accrue.sync.workspace import Invite, Workspace

CONNECT_S = 15.0
ANSWER_S = 30.0  # without any progress, then the broker is taken to be gone
PACKET_OVERHEAD_BYTES = 1024
WRONG_LIMIT = 50  # requests that know no code, then an invitation ends
FETCH_FILTERS = 8  # of one SUBSCRIBE
CA_FILE, LOCK_FILE = "ca.crt", "visit.lock"
WAIT_S = 20.0  # for another visit to end: the broker knows the owner by one client id

Progress = Callable[[str, int, int], None]


@dataclass
class Snapshot:
    """What a visit found.

    Attributes:
        heard: contributions that are new to the owner. refused: messages refused, by reason.
        missing: parts that a contribution names and the broker does not have.
    """

    heard: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    missing: int = 0


@dataclass(frozen=True)
class Joined:
    """A device that was let in. `reloaded`: whether the broker knows its account already."""

    device: str
    name: str
    key: bytes
    reloaded: bool


class OwnerLine:
    """One visit at the broker. A context manager: connected inside."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        progress: Progress = lambda what, done, total: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._progress = progress
        self._clock = clock
        self.topics = Topics(workspace.fleet)
        self.id = owner_id(workspace.public)
        self._retained: dict[str, bytes] = {}
        self._fence = b""
        self._fenced = False
        self._subscribing = 0
        self._sending = 0
        self._failed: Sent | None = None
        self._classes: dict[tuple[str, str], list[tuple[Address, bytes]]] = {}
        self._inboxes: dict[Scope, Inbox] = {}
        self._requests: list[tuple[str, bytes]] = []
        self._moved = clock()
        self.link = Link(endpoint(workspace), self.id, self)
        self.loop = Loop()
        self.loop.add(self.link)

    def __enter__(self) -> OwnerLine:
        """Raises Conflict where another visit does not end; LinkError."""
        self._turn = self._wait_for_turn()
        try:
            self.link.open()
            self._until(lambda: self.link.is_up, CONNECT_S, "connect")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()
        self._turn.close()

    def _wait_for_turn(self) -> IO[str]:
        """One visit at a time, of all processes with this folder."""
        path = self._workspace.folder / LOCK_FILE
        path.touch(mode=0o600)
        file = path.open("a")
        until = self._clock() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if self._clock() > until:
                    file.close()
                    raise Conflict(
                        f"another visit at the broker of fleet {self._workspace.fleet} has not "
                        f"ended within {WAIT_S:g} s",
                        hint="nothing was changed; does `accrue-fleet roster invite --wait` or "
                        "`roster accept` wait in another window? let it end, or stop it (Ctrl-C)",
                        path=str(self._workspace.folder),
                    ) from None
                time.sleep(0.05)
            except BaseException:
                file.close()
                raise

    # ---- reading --------------------------------------------------------------------------------

    def collect(self, *, contributions: bool = True) -> Snapshot:
        """Takes everything that is retained into the owner's folder.

        Raises:
            LinkError: the broker did not answer. Conflict: the folder is an old copy.
        """
        wanted = [
            self.topics.path("roster"),
            self.topics.filter("manifest"),
            self.topics.filter("coming"),
            self.topics.filter("state"),
            self.topics.filter("report"),
        ]
        if contributions:
            wanted.append(self.topics.filter("class"))
        self._snapshot(wanted)
        self._require_newest()
        for topic, payload in self._retained.items():
            address = self.topics.parse(topic)
            if address is None or not payload:
                continue
            if address.name == "state":
                self._workspace.keep_report(
                    address.device, payload.decode("utf-8", "replace"), None
                )
            elif address.name == "report":
                self._workspace.keep_report(address.device, None, payload)
        found = Snapshot()
        if contributions:
            self._take_contributions(found)
            self._workspace.note_visit()
        return found

    def _snapshot(self, filters: list[str]) -> None:
        """Subscribes, and waits until all that was retained is here."""
        self._fenced, self._fence = False, str(time.time_ns()).encode()
        self._subscribe([*filters, self.topics.path("fence", device=self.id)])
        self._send("fence", self._fence, device=self.id)
        self._until(lambda: self._fenced, ANSWER_S, "send what it retains")

    def _require_newest(self) -> None:
        """Raises Conflict where the broker has a later version than this folder."""
        payload = self._retained.get(self.topics.path("roster"))
        mine = self._workspace.roster().version
        if payload:
            try:
                theirs = RosterHead.open(payload, self._workspace.public).version
            except Rejected:
                return  # somebody else wrote it; the next publish puts ours in its place
            if theirs > mine:
                raise Conflict(
                    f"the broker has roster {theirs}, {self._workspace.folder} is at {mine}: "
                    "this folder is an old copy",
                    hint="use the newest copy of the owner's folder; devices take no older roster",
                    found=mine,
                    expected=theirs,
                )

    def _take_contributions(self, found: Snapshot) -> None:
        trust = RosterTrust(self._workspace.roster())
        for scope, messages in self._by_scope(trust, found).items():
            ledger = self._workspace.ledger(scope)
            inbox = Inbox(
                scope, trust, self._workspace.clock, ledger.part, known=ledger.revisions()
            )
            self._inboxes[scope] = inbox
            for address, payload in messages:
                inbox.contribution(payload, address.device, address.class_id)
            self._fetch(scope, inbox)
            found.heard += ledger.hear(inbox.ready()).taken
            found.missing += len(inbox.wanted())
            for reason, count in inbox.refused.items():
                if reason != "replayed":
                    found.refused[reason] = found.refused.get(reason, 0) + count

    def _by_scope(
        self, trust: RosterTrust, found: Snapshot
    ) -> dict[Scope, list[tuple[Address, bytes]]]:
        """The messages by the scope that the signed contributions in them name."""
        known = {(s.class_set, s.space16): s for s in self._workspace.scopes()}
        sorted_out: dict[Scope, list[tuple[Address, bytes]]] = {}
        for topic, payload in self._retained.items():
            address = self.topics.parse(topic)
            if address is None or address.name != "class" or not payload:
                continue
            key = address.set, address.space
            try:
                if key not in known:
                    known[key] = _signed_scope(payload, trust, self._workspace.fleet)
            except Rejected as error:
                found.refused[error.reason] = found.refused.get(error.reason, 0) + 1
                continue
            sorted_out.setdefault(known[key], []).append((address, payload))
        return sorted_out

    def _fetch(self, scope: Scope, inbox: Inbox) -> None:
        wanted = sorted(inbox.wanted())
        filters = [
            self.topics.filter(
                "data", device=device, set=scope.class_set, space=scope.space16, sha256=digest
            )
            for device, digest in wanted
        ]
        for start in range(0, len(filters), FETCH_FILTERS):
            self._progress("parts", start, len(filters))
            self._snapshot(filters[start : start + FETCH_FILTERS])
        if filters:
            self._progress("parts", len(filters), len(filters))

    # ---- publishing -----------------------------------------------------------------------------

    def publish(self) -> int:
        """Makes the broker retain what the folder says; how many messages that took.

        Contents go before the heads that point at them, and are cleared once no head does.

        Raises:
            LinkError: the broker did not take a message.
        """
        workspace = self._workspace
        sent, last = 0, workspace.last_step()
        roster_topic = self.topics.path("roster")
        if not self._retained.get(roster_topic):
            workspace.forget_published()  # a new broker, or one that lost everything
        needed, present = workspace.needed(), workspace.published()
        for number, (digest, body) in enumerate(needed.items()):
            if digest not in present:
                chunks = cut(body, self._chunk_bytes())
                for index, chunk in enumerate(chunks):
                    self._send("owner-data", chunk, sha256=digest, chunk=str(index))
                    sent += 1
                    self._drain(16)
                self._drain(0)
                workspace.note_published(digest, len(chunks))
            self._progress("publish", number + 1, len(needed))
        heads = {roster_topic: workspace.roster_bytes()[0]}
        for scope in workspace.scopes():
            head = workspace.head_bytes(scope)
            if head is not None:
                fields = {"set": scope.class_set, "space": scope.space16}
                heads[self.topics.path("manifest", **fields)] = head
        for class_set, envelope in workspace.coming_bytes().items():
            heads[self.topics.path("coming", set=class_set)] = envelope
        for topic, payload in heads.items():
            if self._retained.get(topic, b"") != payload:
                self._send_to(topic, payload)
                self._retained[topic] = payload
                sent += 1
        self._drain(0)
        for digest, count in workspace.published().items():
            if digest not in needed:
                for index in range(count):
                    self._send("owner-data", b"", sha256=digest, chunk=str(index))
                    sent += 1
                self._drain(0)
                workspace.note_cleared(digest)
        workspace.note_told(last)
        return sent

    def put(self, name: str, payload: bytes, **fields: str) -> None:
        """Sends one message, and waits until the broker has it."""
        self._send(name, payload, **fields)
        self._drain(0)

    def clear_device(self, device: str) -> int:
        """Clears all that the broker retains of a device; how many topics."""
        self._snapshot([self.topics.prefix + f"dev/{device}/#"])
        mine = self.topics.prefix + f"dev/{device}/"
        topics = [t for t, payload in self._retained.items() if t.startswith(mine) and payload]
        for topic in topics:
            self._send_to(topic, b"")
            self._drain(16)
        self._drain(0)
        return len(topics)

    # ---- letting devices in ---------------------------------------------------------------------

    def accept(
        self,
        files: BrokerFolder | None,
        *,
        seconds: float,
        only: Invite | None = None,
        told: Callable[[Joined], object] = lambda _: None,
        refused: Callable[[str], object] = lambda _: None,
    ) -> list[Joined]:
        """Answers devices that know a code, until the time is over or no invitation is open.

        Args:
            only: end once this one is used.
            told, refused: called for each device that was let in, or that was not.
        """
        self._subscribe([self.topics.filter("enrol-request")])
        until = self._clock() + seconds
        joined: list[Joined] = []
        while self._clock() < until and self._workspace.invites():
            self.loop.step(min(0.5, max(0.0, until - self._clock())))
            self._require_up("wait for devices")
            while self._requests:
                device, payload = self._requests.pop(0)
                try:
                    found = self._answer(device, payload, files)
                except AccrueError as error:
                    refused(error.message)
                    continue
                if found is not None:
                    joined.append(found)
                    told(found)
            if only is not None and self._workspace.is_used(only):
                break
            if joined and not [i for i in self._workspace.invites() if i.device is None]:
                break
        return joined

    def _answer(self, device: str, payload: bytes, files: BrokerFolder | None) -> Joined | None:
        workspace = self._workspace
        digest = hashlib.sha256(payload).digest()
        for invite in workspace.invites():
            if invite.request == digest and invite.reply is not None:
                self._reply(device, invite.reply)  # the answer was lost: the same again
                return None
        request = Request.open(payload, workspace.fleet)
        applicant = request.applicant
        if applicant.device != device:
            raise Rejected("a request on another device's topic", reason="wrong-scope")
        invite, keys = self._invited(request)
        name = invite.name or applicant.name
        member = workspace.roster().devices.get(device)
        if member is not None and all(window.key != applicant.key for window in member.keys):
            raise Conflict(
                f"device {device} is in the roster with another key; nothing was changed",
                hint="if its key was lost: accrue-fleet roster revoke, and a new identity there",
            )
        admission, reloaded = admit(workspace, device, files)
        if member is None or member.revoked is not None:
            workspace.set_device(
                device,
                Member(name, (KeyWindow(applicant.key),)),
                "join",
                f"let {name} ({device}) in",
            )
        admission = replace(admission, roster=workspace.roster().version)
        reply = make_reply(request, keys, admission)
        workspace.use_invite(invite, device, digest, reply)
        self.publish()
        self._reply(device, reply)
        return Joined(device, name, applicant.key, reloaded)

    def _invited(self, request: Request) -> tuple[Invite, CodeKeys]:
        """The open invitation whose code the device knows. Raises Rejected."""
        open_ones = [
            i for i in self._workspace.invites() if i.device is None and i.wrong < WRONG_LIMIT
        ]
        for invite in open_ones:
            keys = request.knows(invite.code)
            if keys is not None:
                return invite, keys
        self._workspace.wrong_guess(open_ones)
        raise Rejected(
            f"device {request.applicant.device} asked to join without a code that is open",
            reason="forged",
        )

    def _reply(self, device: str, reply: bytes) -> None:
        self.put("enrol-reply", reply, device=device)

    # ---- the link -------------------------------------------------------------------------------

    def on_up(self, limits: Limits) -> None:
        self._moved = self._clock()

    def on_down(self, error: AccrueError) -> None:
        pass  # `_until` and `_require_up` ask the link

    def on_message(self, message: Received) -> None:
        self._moved = self._clock()
        address = self.topics.parse(message.topic)
        if address is None:
            return
        if address.name == "fence":
            self._fenced = self._fenced or message.payload == self._fence
        elif address.name == "enrol-request":
            self._requests.append((address.device, message.payload))
        elif address.name == "data":
            for scope, inbox in self._inboxes.items():
                if (scope.class_set, scope.space16) == (address.set, address.space):
                    inbox.chunk(address.device, address.sha256, address.chunk, message.payload)
        else:
            self._retained[message.topic] = message.payload

    def _subscribe(self, filters: list[str]) -> None:
        for start in range(0, len(filters), FETCH_FILTERS):
            self._subscribing += 1
            self.link.subscribe(filters[start : start + FETCH_FILTERS], self._subscribed)
        self._until(lambda: self._subscribing == 0, ANSWER_S, "grant subscriptions")

    def _subscribed(self, granted: bool) -> None:
        self._moved = self._clock()
        self._subscribing -= 1
        if not granted:
            self._failed = Sent.DENIED

    def _send(self, name: str, payload: bytes, **fields: str) -> None:
        self._send_to(self.topics.path(name, **fields), payload)

    def _send_to(self, topic: str, payload: bytes) -> None:
        address = self.topics.parse(topic)
        kind = BY_NAME["data"] if address is None else address.topic
        self._sending += 1
        self.link.send(Message(topic, payload, kind), self._sent)

    def _sent(self, outcome: Sent) -> None:
        self._moved = self._clock()
        self._sending -= 1
        if outcome is not Sent.DONE:
            self._failed = outcome

    def _drain(self, most: int) -> None:
        """Waits until at most so many messages are under way."""
        self._until(lambda: self._sending <= most, ANSWER_S, "take a message")

    def _until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Steps until it holds; gives up where nothing moves for so long."""
        self._moved = self._clock()
        while not holds():
            self.loop.step(0.5)
            self._require_up(what)
            if self._clock() - self._moved > seconds:
                raise BrokerUnreachable(
                    f"the broker {self.link.endpoint} did not {what} within {seconds:g} s",
                    hint="is it overloaded? see its log, and try again",
                )
        self._require_up(what)

    def _require_up(self, what: str) -> None:
        if self.link.error is not None and not self.link.is_up:
            raise self.link.error
        failed, self._failed = self._failed, None
        if failed is not None:
            limit = self.link.limits.packet_bytes
            raise LinkError(
                f"the broker {self.link.endpoint} did not {what}: {failed.value}",
                hint=f"its packets hold at most {limit:,} bytes; raise max_packet_size"
                if failed is Sent.OVERSIZED
                else "the owner's account may do everything in its fleet: accrue-fleet broker",
            )

    def _chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self.link.limits.packet_bytes - PACKET_OVERHEAD_BYTES)


def admit(workspace: Workspace, device: str, files: BrokerFolder | None) -> tuple[Admission, bool]:
    """A new account at the broker for a device, and what the device is told of it.

    Returns:
        And whether a broker on this machine has taken the account up.
    """
    password = new_password()
    admission = admission_of(workspace, device, password)
    reloaded = False
    if files is not None:
        files.set_account(device, "device", password)
        reloaded = reload_broker(files)
    return admission, reloaded


def admission_of(workspace: Workspace, device: str, password: str) -> Admission:
    """What a device with this password at the broker is told. Raises NotFound for no broker."""
    broker = require_broker(workspace)
    return Admission(
        workspace.fleet,
        workspace.public,
        device,
        password,
        workspace.roster().version,
        broker.ca,
        broker.host,
        broker.port,
        broker.tls,
    )


def require_broker(workspace: Workspace) -> Broker:
    """Raises NotFound where the owner does not know the way to a broker."""
    if workspace.broker is None:
        raise NotFound(
            f"no broker is known for fleet {workspace.fleet}",
            hint="write one: accrue-fleet broker --host NAME",
            path=str(workspace.folder),
        )
    return workspace.broker


def endpoint(workspace: Workspace) -> Endpoint:
    broker = require_broker(workspace)
    ca: Path | None = None
    if broker.ca:
        ca = workspace.folder / CA_FILE
        if not ca.exists() or ca.read_text() != broker.ca:
            ca.write_text(broker.ca)
    return Endpoint(broker.host, broker.port, broker.user, broker.password, ca, broker.tls)


def owner_id(public_key: bytes) -> str:
    """The client id of the owner, in the form of a device's: it follows from the key."""
    number = int.from_bytes(hashlib.sha256(public_key).digest()[:8], "big")
    return "".join(ALPHABET[number >> 5 * i & 31] for i in range(12))


def _signed_scope(envelope: bytes, trust: RosterTrust, fleet: str) -> Scope:
    """The scope in a contribution that a device of the roster signed. Raises Rejected."""
    signature, body = split(envelope)
    found = Contribution.from_body(parse(body))
    reason = trust.verify(
        found.device, found.revision, signature, signed_bytes("contribution", body)
    )
    if reason is not None:
        raise Rejected(f"contribution of {found.device}: {reason}", reason=reason)
    if found.scope.fleet != fleet:
        raise Rejected(f"contribution to fleet {found.scope.fleet}", reason="wrong-scope")
    return found.scope
