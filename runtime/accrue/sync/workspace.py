"""The owner's folder: the key of the fleet, every version of what was signed, and the log.

    owner.key   the fleet's private key, 0600. Who has it is the owner.
    owner.json  fleet, and how the owner reaches the broker; 0600, with the password
    owner.db    rosters, manifests, proposals, what the devices said, and the log (SQLite)
    visit.lock  held by whoever is at the broker as the owner

Each step is one transaction and one entry of the log, with what was before it; undoing a step puts
that back as a new, higher version. Nothing here talks to the broker: `accrue.sync.owner` does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.errors import Conflict, FormatError, NotFound
from accrue.store.database import Database
from accrue.store.failures import corrupt, translated
from accrue.store.names import shown
from accrue.sync.archive import open_parcel, parcel
from accrue.sync.clock import Clock
from accrue.sync.content import Pointer, sha256
from accrue.sync.contribution import Contribution, Scope
from accrue.sync.difference import Summary, summarise
from accrue.sync.enrol import CODE_SECONDS, new_code
from accrue.sync.identity import (
    KEY_BYTES,
    Broker,
    clean_fleet,
    hex_key,
    read_file,
    read_json,
    require_private,
    write_json,
    write_private,
)
from accrue.sync.ledger import Applied, Heard, Own
from accrue.sync.manifest import Canary, Manifest, ManifestHead, Version
from accrue.sync.roster import Member, Policy, Roster, open_roster
from accrue.sync.signed import parse, split

KEY, CONFIG, DATABASE = "owner.key", "owner.json", "owner.db"
SALT_BYTES = 8
_HINT = "make a fleet: accrue-fleet init FLEET"
MOST_OPENED = 20  # manifests; one of 1,000 devices with 20 classes each has some MB
_OPENED: dict[tuple[Scope, Version], Manifest] = {}

_SCHEMA = (
    """CREATE TABLE roster (version INTEGER PRIMARY KEY, head BLOB NOT NULL,
        content BLOB NOT NULL)""",
    """CREATE TABLE contribution (class_set TEXT, space TEXT, dim INTEGER, device TEXT,
        class_id TEXT, revision INTEGER NOT NULL, envelope BLOB NOT NULL,
        PRIMARY KEY (class_set, space, device, class_id)) WITHOUT ROWID""",
    "CREATE TABLE part (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE content (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL)",
    """CREATE TABLE manifest (class_set TEXT, space TEXT, number INTEGER, sha256 TEXT NOT NULL,
        size INTEGER NOT NULL, at REAL NOT NULL, note TEXT NOT NULL,
        PRIMARY KEY (class_set, space, number)) WITHOUT ROWID""",
    """CREATE TABLE head (class_set TEXT, space TEXT, dim INTEGER NOT NULL, version INTEGER,
        envelope BLOB NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (class_set, space, version)) WITHOUT ROWID""",
    """CREATE TABLE proposal (id INTEGER PRIMARY KEY AUTOINCREMENT, class_set TEXT NOT NULL,
        space TEXT NOT NULL, class_id TEXT NOT NULL, name TEXT NOT NULL, entries TEXT NOT NULL,
        parcel TEXT NOT NULL, at REAL NOT NULL, status TEXT NOT NULL, remark TEXT NOT NULL)""",
    """CREATE TABLE invite (code TEXT PRIMARY KEY, name TEXT NOT NULL, until REAL NOT NULL,
        device TEXT, request BLOB, reply BLOB, wrong INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE report (device TEXT PRIMARY KEY, state TEXT, report BLOB, at REAL NOT NULL)",
    "CREATE TABLE coming (class_set TEXT PRIMARY KEY, envelope BLOB)",
    "CREATE TABLE published (sha256 TEXT PRIMARY KEY, chunks INTEGER NOT NULL)",
    "CREATE TABLE account (device TEXT PRIMARY KEY, hash TEXT NOT NULL)",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    """CREATE TABLE log (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,
        verb TEXT NOT NULL, summary TEXT NOT NULL, subject TEXT, before TEXT, after TEXT,
        undoes INTEGER REFERENCES log (seq), undone_by INTEGER REFERENCES log (seq))""",
)
_MIGRATIONS: tuple[Sequence[str], ...] = (  # the first makes version 1 of the file, and so on
    _SCHEMA,
    ("ALTER TABLE log ADD COLUMN actor TEXT NOT NULL DEFAULT ''",),
)


@dataclass(frozen=True)
class Step:
    """An entry of the log.

    Attributes:
        subject: what it changed, and `before`, `after`: from what to what; None where it cannot be
            undone.
        undoes: the step that it took back. undone_by: the one that took it back.
        actor: who took it; "" where that was not written down yet.
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
class Proposal:
    """What devices have said about one class and the owner has not decided, or not published.

    Attributes:
        entries: (device, revision) of each. parcel: digest of what they say.
        status: open, approved, denied or replaced.
    """

    id: int
    scope: Scope
    class_id: str
    name: str
    entries: tuple[tuple[str, int], ...]
    parcel: str
    at: float
    status: str
    remark: str


@dataclass(frozen=True)
class Invite:
    """An open invitation. `code` is a secret until it is used up or too old."""

    code: str
    name: str
    until: float
    device: str | None = None
    request: bytes | None = None
    reply: bytes | None = None
    wrong: int = 0


class Workspace:
    """The folder of one fleet's owner.

    Attributes:
        folder, fleet. key: the fleet's private key. broker: how the owner gets there, if known.
        clock: for stamps of revocation and rotation. actor: who takes the steps.
    """

    def __init__(
        self,
        folder: Path,
        fleet: str,
        key: Ed25519PrivateKey,
        broker: Broker | None,
        database: Database,
        now: Callable[[], float],
        actor: str = "",
    ) -> None:
        self.folder = folder
        self.fleet = fleet
        self.key = key
        self.broker = broker
        self.database = database
        self.now = now
        self.actor = actor
        self.clock = Clock(self._meta("clock"), lambda: int(now() * 1000))

    @classmethod
    def create(
        cls, folder: Path, fleet: str, *, now: Callable[[], float] = time.time, actor: str = ""
    ) -> Workspace:
        """Makes a fleet: a new key, and a first roster without devices.

        Raises:
            Conflict: a fleet is there already. UsageError: no fleet id.
        """
        clean_fleet(fleet)
        for name in (KEY, CONFIG, DATABASE):
            if (folder / name).exists():
                raise Conflict(
                    f"{folder} holds {name} already; nothing was changed",
                    hint="choose another folder with --fleet",
                    path=str(folder / name),
                )
        key = Ed25519PrivateKey.generate()
        write_private(folder / KEY, key.private_bytes_raw().hex().encode() + b"\n")
        with translated(folder):
            folder.chmod(0o700)
        found = cls(folder, fleet, key, None, _database(folder), now, actor)
        try:
            found._save_config()
            roster = Roster(fleet, 1, found.public)
            with found.database.atomic():
                found._keep_roster(roster)
                found._record("init", f"made fleet {fleet}", None, None, None)
        except BaseException:
            found.close()
            raise
        return found

    @classmethod
    def open(
        cls, folder: Path, *, now: Callable[[], float] = time.time, actor: str = ""
    ) -> Workspace:
        """Raises NotFound, Conflict where others may read the key, FormatError."""
        config = read_json(folder / CONFIG, "fleet owner", _HINT)
        path = folder / KEY
        text = read_file(
            path,
            2 * KEY_BYTES + 2,
            missing=f"the fleet's private key {path} is not there",
            hint="put it back from its backup; without it nothing can be signed",
        )
        require_private(path)
        try:
            key = Ed25519PrivateKey.from_private_bytes(
                hex_key(text.decode("ascii", "replace").strip(), "key")
            )
            fleet = str(config["fleet"])
            found = config["broker"]
            broker = found and Broker(
                str(found["host"]),
                int(found["port"]),
                bool(found["tls"]),
                str(found["user"]),
                str(found["password"]),
                str(found["ca"]),
            )
        except (KeyError, TypeError, ValueError, FormatError) as error:
            raise FormatError(
                f"{folder} is no owner's folder: {error}", hint=_HINT, path=str(folder)
            ) from None
        workspace = cls(folder, fleet, key, broker, _database(folder), now, actor)
        workspace.drop_invites()
        return workspace

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def set_broker(self, broker: Broker) -> None:
        self.broker = broker
        self._save_config()
        with self.database.atomic():
            self._record("broker", f"broker at {broker.host}:{broker.port}", None, None, None)

    def _save_config(self) -> None:
        write_json(
            self.folder / CONFIG,
            "owner",
            {"fleet": self.fleet, "broker": self.broker and vars(self.broker)},
        )

    def tick(self) -> int:
        """A stamp of the owner, kept over restarts."""
        stamp = self.clock.tick()
        self._set_meta("clock", stamp)
        return stamp

    @property
    def visited_at(self) -> float | None:
        """When the broker was read last, in unix seconds; None: never."""
        found = self._meta("visited")
        return found / 1000 if found else None

    def note_visit(self) -> None:
        """The broker was read just now."""
        self._set_meta("visited", int(self.now() * 1000))

    @property
    def untold(self) -> int:
        """Steps that were taken since the broker was told."""
        with self.database.reading() as db:
            (count,) = db.execute(
                "SELECT count(*) FROM log WHERE seq > ? AND subject IS NOT NULL "
                "AND subject NOT LIKE 'proposal/%'",
                (self._meta("told"),),
            ).fetchone()
        return int(count)

    def last_step(self) -> int:
        """Number of the newest step."""
        with self.database.reading() as db:
            (seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM log").fetchone()
        return int(seq)

    def note_told(self, seq: int) -> None:
        """The broker retains what the folder said up to this step."""
        self._set_meta("told", seq)

    def _set_meta(self, key: str, value: int) -> None:
        with self.database.atomic() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _meta(self, key: str) -> int:
        with self.database.reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    # ---- roster ---------------------------------------------------------------------------------

    def roster(self, version: int | None = None) -> Roster:
        """The newest roster, or one of before. Raises NotFound."""
        return open_roster(*self.roster_bytes(version), self.public, self.fleet)

    def roster_bytes(self, version: int | None = None) -> tuple[bytes, bytes]:
        """(signed head, content)."""
        with self.database.reading() as db:
            row = db.execute(
                """SELECT head, content FROM roster WHERE version = coalesce(?,
                (SELECT max(version) FROM roster))""",
                (version,),
            ).fetchone()
        if row is None:
            raise NotFound(f"no roster of version {version}", hint="see: accrue-fleet log")
        return bytes(row[0]), bytes(row[1])

    def _keep_roster(self, roster: Roster) -> None:
        head, content = roster.sealed(self.key)
        with self.database.atomic() as db:
            db.execute("INSERT INTO roster VALUES (?, ?, ?)", (roster.version, head, content))

    def set_device(self, device: str, member: Member | None, verb: str, summary: str) -> Step:
        """A new version of the roster with this device as given; None: without it."""
        value = member and member.to_body()
        return self._change(verb, summary, f"device/{device}", value)

    def set_devices(self, members: Mapping[str, Member | None], verb: str, summary: str) -> Step:
        """As `set_device`, many at once: one version of the roster and one step."""
        values = {device: member and member.to_body() for device, member in members.items()}
        return self._change(verb, summary, f"devices/{','.join(sorted(values))}", values)

    def set_policy(self, class_set: str, policy: Policy | None) -> Step:
        """Raises Conflict where it is so already."""
        if self.roster().sets.get(class_set) == policy:
            raise Conflict(f"class set {shown(class_set)} is {policy} already")
        return self._change(
            "policy", f"class set {class_set} is {policy or 'open'}", f"policy/{class_set}", policy
        )

    # ---- what devices said ----------------------------------------------------------------------

    def scopes(self) -> list[Scope]:
        """The sets and spaces that something is known about."""
        with self.database.reading() as db:
            rows = db.execute(
                """SELECT DISTINCT class_set, space, dim FROM contribution
                UNION SELECT DISTINCT class_set, space, dim FROM head ORDER BY 1, 2"""
            ).fetchall()
        return [Scope(self.fleet, *row) for row in rows]

    def scope(self, class_set: str | None, space: str | None) -> Scope:
        """The one scope of this class set and of a space that begins so.

        Raises:
            NotFound: none. Conflict: more than one.
        """
        known = self.scopes()
        found = [
            s for s in known if class_set in (None, s.class_set) and s.space.startswith(space or "")
        ]
        if not found:
            what = f"class set {shown(class_set)}" if class_set else "class set"
            raise NotFound(
                f"no {what} is known in fleet {self.fleet}",
                hint="it is known once a device has taught something: accrue-fleet status",
            )
        if len(found) > 1:
            said = ", ".join(f"{s.class_set} {s.space16}" for s in found)
            raise Conflict(
                f"{len(found)} class sets fit: {said}", hint="choose with --set, --space"
            )
        return found[0]

    def ledger(self, scope: Scope) -> WorkspaceLedger:
        return WorkspaceLedger(self, scope)

    def keep_report(self, device: str, state: str | None, report: bytes | None) -> None:
        """Notes what a device said of itself; None leaves what was there."""
        with self.database.atomic() as db:
            db.execute(
                """INSERT INTO report VALUES (?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET
                state = coalesce(excluded.state, state),
                report = coalesce(excluded.report, report), at = excluded.at""",
                (device, state, report, self.now()),
            )

    def reports(self) -> dict[str, tuple[str | None, bytes | None]]:
        """Device -> (state as it was sent, signed report)."""
        with self.database.reading() as db:
            rows = db.execute("SELECT device, state, report FROM report ORDER BY device").fetchall()
        return {device: (state, report) for device, state, report in rows}

    # ---- manifests ------------------------------------------------------------------------------

    def head(self, scope: Scope) -> ManifestHead | None:
        """The newest head of a class set."""
        envelope = self.head_bytes(scope)
        return None if envelope is None else ManifestHead.open(envelope, self.public)

    def head_bytes(self, scope: Scope) -> bytes | None:
        with self.database.reading() as db:
            row = db.execute(
                """SELECT envelope FROM head WHERE class_set = ? AND space = ?
                ORDER BY version DESC LIMIT 1""",
                (scope.class_set, scope.space),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def numbers(self, scope: Scope) -> list[tuple[int, float, str]]:
        """(number, when, note) of each content of a class set, oldest first."""
        with self.database.reading() as db:
            return db.execute(
                """SELECT number, at, note FROM manifest WHERE class_set = ? AND space = ?
                ORDER BY number""",
                (scope.class_set, scope.space),
            ).fetchall()

    def version(self, scope: Scope, number: int) -> Version:
        """Raises NotFound."""
        with self.database.reading() as db:
            row = db.execute(
                """SELECT sha256, size FROM manifest WHERE class_set = ? AND space = ?
                AND number = ?""",
                (scope.class_set, scope.space, number),
            ).fetchone()
        if row is None:
            raise NotFound(
                f"no manifest {number} of class set {scope.class_set}",
                hint="see: accrue-fleet manifests",
                found=number,
            )
        return Version(number, Pointer(*row))

    def manifest(self, scope: Scope, version: Version) -> Manifest:
        """A content, opened; what it is follows from its digest, so it is opened once."""
        key = scope, version
        found = _OPENED.get(key)
        if found is None:
            head = ManifestHead(scope.fleet, scope.class_set, scope.space, scope.dim, 1, version)
            found = Manifest.open(self.content(version.content.sha256), head, version.content)
            if len(_OPENED) >= MOST_OPENED:
                _OPENED.clear()
            _OPENED[key] = found
        return found

    def content(self, digest: str) -> bytes:
        """Published bytes by their digest. Raises StoreCorrupt."""
        with self.database.reading() as db:
            row = db.execute("SELECT body FROM content WHERE sha256 = ?", (digest,)).fetchone()
        if row is None:
            raise corrupt(self.database.path, f"content {digest[:12]} is missing")
        return bytes(row[0])

    def listed(self, manifest: Manifest) -> dict[tuple[str, str], Heard]:
        """What a manifest holds, with all of its bytes."""
        return {
            one.contribution.key: one
            for listed in manifest.classes.values()
            for one in open_parcel(self.content(listed.parcel.sha256))
        }

    def add_manifest(self, scope: Scope, make: Callable[[int], Manifest]) -> Version:
        """Keeps the next content; `make` is given its number."""
        with self.database.atomic() as db:
            number = 1 + max((n for n, _, _ in self.numbers(scope)), default=0)
            manifest = make(number)
            packed = manifest.packed()
            pointer = Pointer.to(packed)
            self.keep_content(packed)
            db.execute(
                "INSERT INTO manifest VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    scope.class_set,
                    scope.space,
                    number,
                    pointer.sha256,
                    pointer.size,
                    self.now(),
                    manifest.note,
                ),
            )
        return Version(number, pointer)

    def keep_content(self, body: bytes) -> Pointer:
        pointer = Pointer.to(body)
        with self.database.atomic() as db:
            db.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (pointer.sha256, body))
        return pointer

    def keep_parcel(self, heard: Sequence[Heard]) -> Pointer:
        return self.keep_content(parcel(heard))

    def set_head(
        self, scope: Scope, stable: Version | None, canary: Canary | None, verb: str, summary: str
    ) -> Step:
        """Signs what is in force from now on."""
        value = _head_value(scope, stable, canary)
        return self._change(verb, summary, f"head/{scope.class_set}/{scope.space}", value)

    def needed(self) -> dict[str, bytes]:
        """Every content that the devices need now: of the roster and of each head in force."""
        _, content = self.roster_bytes()
        found = {sha256(content): content}
        for scope in self.scopes():
            head = self.head(scope)
            if head is None:
                continue
            canary = [head.canary.version] if head.canary else []
            for version in [*([head.stable] if head.stable else []), *canary]:
                found[version.content.sha256] = self.content(version.content.sha256)
                for listed in self.manifest(scope, version).classes.values():
                    found[listed.parcel.sha256] = self.content(listed.parcel.sha256)
        return found

    def published(self) -> dict[str, int]:
        """Digests of contents that the broker retains, as far as is known, to their chunks."""
        with self.database.reading() as db:
            return dict(db.execute("SELECT sha256, chunks FROM published").fetchall())

    def note_published(self, digest: str, chunks: int) -> None:
        with self.database.atomic() as db:
            db.execute("INSERT OR REPLACE INTO published VALUES (?, ?)", (digest, chunks))

    def note_cleared(self, digest: str) -> None:
        with self.database.atomic() as db:
            db.execute("DELETE FROM published WHERE sha256 = ?", (digest,))

    def forget_published(self) -> None:
        """Everything has to be sent anew."""
        with self.database.atomic() as db:
            db.execute("DELETE FROM published")

    # ---- the announcement of another space ------------------------------------------------------

    def coming_bytes(self) -> dict[str, bytes]:
        """Class set -> signed announcement; empty where it was taken back."""
        with self.database.reading() as db:
            rows = db.execute("SELECT class_set, envelope FROM coming").fetchall()
        return {class_set: bytes(envelope or b"") for class_set, envelope in rows}

    def set_coming(self, class_set: str, envelope: bytes | None, summary: str) -> Step:
        value = None if envelope is None else envelope.hex()
        return self._change("coming", summary, f"coming/{class_set}", value)

    # ---- proposals ------------------------------------------------------------------------------

    def proposals(self, scope: Scope | None = None, status: str | None = None) -> list[Proposal]:
        with self.database.reading() as db:
            rows = db.execute(
                """SELECT id, class_set, space, class_id, name, entries, parcel, at, status, remark
                FROM proposal ORDER BY id"""
            ).fetchall()
        dims = {(s.class_set, s.space): s for s in self.scopes()}
        found = [
            Proposal(
                row[0],
                dims[row[1], row[2]],
                row[3],
                row[4],
                tuple((device, revision) for device, revision in json.loads(row[5])),
                *row[6:],
            )
            for row in rows
        ]
        return [p for p in found if scope in (None, p.scope) and status in (None, p.status)]

    def proposal(self, number: int) -> Proposal:
        """Raises NotFound."""
        for found in self.proposals():
            if found.id == number:
                return found
        raise NotFound(f"no proposal {number}", hint="see: accrue-fleet propose", found=number)

    def add_proposal(
        self,
        scope: Scope,
        class_id: str,
        name: str,
        entries: Sequence[tuple[str, int]],
        parcel: str,
    ) -> int:
        """Opens a proposal; one that is open for the class is replaced."""
        with self.database.atomic() as db:
            db.execute(
                """UPDATE proposal SET status = 'replaced' WHERE status = 'open'
                AND class_set = ? AND space = ? AND class_id = ?""",
                (scope.class_set, scope.space, class_id),
            )
            done = db.execute(
                "INSERT INTO proposal VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, 'open', '')",
                (
                    scope.class_set,
                    scope.space,
                    class_id,
                    name,
                    json.dumps([list(entry) for entry in entries]),
                    parcel,
                    self.now(),
                ),
            )
            return int(done.lastrowid or 0)

    def decide(self, number: int, status: str, remark: str) -> Step:
        """Raises NotFound, Conflict where it is decided already."""
        with self.database.atomic():
            found = self.proposal(number)
            if found.status != "open":
                raise Conflict(
                    f"proposal {number} is {found.status} already",
                    hint="it was gathered anew: accrue-fleet propose"
                    if found.status == "replaced"
                    else "take that back with: accrue-fleet undo",
                    found=found.status,
                )
            verb = {"approved": "approve", "denied": "deny"}[status]
            said = f": {remark}" if remark else ""
            return self._change(
                verb,
                f"{status} proposal {number}, {found.name}{said}",
                f"proposal/{number}",
                {"status": status, "remark": remark},
            )

    # ---- invitations ----------------------------------------------------------------------------

    def invite(self, name: str) -> Invite:
        """A new code, good for one device and a quarter of an hour."""
        invite = Invite(new_code(), name, self.now() + CODE_SECONDS)
        self.drop_invites()
        with self.database.atomic() as db:
            db.execute(
                "INSERT INTO invite (code, name, until) VALUES (?, ?, ?)",
                (invite.code, name, invite.until),
            )
            self._record("invite", f"invited {name}", None, None, None)
        return invite

    def drop_invites(self) -> None:
        """Deletes codes whose time is over."""
        with self.database.atomic() as db:
            db.execute("DELETE FROM invite WHERE until < ?", (self.now(),))

    def invites(self) -> list[Invite]:
        """Those whose time is not over, used ones too, so that a lost answer can be sent again."""
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT * FROM invite WHERE until >= ? ORDER BY until", (self.now(),)
            ).fetchall()
        return [Invite(*row) for row in rows]

    def use_invite(self, invite: Invite, device: str, request: bytes, reply: bytes) -> None:
        with self.database.atomic() as db:
            db.execute(
                "UPDATE invite SET device = ?, request = ?, reply = ? WHERE code = ?",
                (device, request, reply, invite.code),
            )

    def is_used(self, invite: Invite) -> bool:
        with self.database.reading() as db:
            row = db.execute("SELECT device FROM invite WHERE code = ?", (invite.code,)).fetchone()
        return row is not None and row[0] is not None

    def wrong_guess(self, invites: Iterable[Invite]) -> None:
        """Counts an answer that knew none of these codes."""
        with self.database.atomic() as db:
            db.executemany(
                "UPDATE invite SET wrong = wrong + 1 WHERE code = ?", [(i.code,) for i in invites]
            )

    # ---- accounts at the broker that were closed ------------------------------------------------

    def closed_accounts(self) -> dict[str, str]:
        """Device -> hash of its password."""
        with self.database.reading() as db:
            return dict(db.execute("SELECT device, hash FROM account").fetchall())

    def note_closed(self, accounts: Mapping[str, str]) -> None:
        with self.database.atomic() as db:
            db.executemany("INSERT OR REPLACE INTO account VALUES (?, ?)", accounts.items())

    def note_opened(self, devices: Iterable[str]) -> None:
        with self.database.atomic() as db:
            db.executemany("DELETE FROM account WHERE device = ?", [(one,) for one in devices])

    # ---- the log --------------------------------------------------------------------------------

    def log(self, limit: int | None = None) -> list[Step]:
        """Newest first."""
        with self.database.reading() as db:
            rows = db.execute(
                f"SELECT {_STEP} FROM log ORDER BY seq DESC LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        return [_step(row) for row in rows]

    def step(self, seq: int) -> Step:
        """Raises NotFound."""
        with self.database.reading() as db:
            row = db.execute(f"SELECT {_STEP} FROM log WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            raise NotFound(f"no step {seq}", hint="see: accrue-fleet log", found=seq)
        return _step(row)

    def undo(self, seq: int | None = None) -> Step:
        """Takes a step back: the newest one that can be, or this one. Undoing an undo is a redo.

        Raises:
            NotFound: nothing to undo. Conflict: it cannot be undone, was, or a later step changed
                the same thing.
        """
        with self.database.atomic() as db:
            if seq is None:
                found = next(
                    (
                        s
                        for s in self.log()
                        if s.subject and s.undone_by is None and s.undoes is None
                    ),
                    None,
                )
                if found is None:
                    raise NotFound("nothing to undo", hint="see: accrue-fleet log")
            else:
                found = self.step(seq)
            if found.subject is None:
                raise Conflict(
                    f"step {found.seq} cannot be undone: {found.summary}",
                    hint="an invitation ends by itself; `accrue-fleet broker` can be run again",
                )
            if found.undone_by is not None:
                raise Conflict(
                    f"step {found.seq} was undone by step {found.undone_by}",
                    hint=f"to have it again: accrue-fleet undo {found.undone_by}",
                )
            if self._current(found.subject) != found.after:
                later = next(
                    (s for s in self.log() if s.seq > found.seq and _overlap(s, found)),
                    None,
                )
                raise Conflict(
                    f"step {found.seq} cannot be undone: what it changed was changed again"
                    + (f" by step {later.seq}, {later.summary}" if later else ""),
                    hint=f"undo that one first: accrue-fleet undo {later.seq}" if later else "",
                )
            verb = "undo" if found.undoes is None else "redo"
            step = self._change(
                verb, f"took back step {found.seq}: {found.summary}", found.subject, found.before
            )
            db.execute("UPDATE log SET undoes = ? WHERE seq = ?", (found.seq, step.seq))
            db.execute("UPDATE log SET undone_by = ? WHERE seq = ?", (step.seq, found.seq))
            return self.step(step.seq)

    def _change(self, verb: str, summary: str, subject: str, value: Any) -> Step:
        """Puts a value in the place of the present one, and writes that down."""
        with self.database.atomic():
            before = self._current(subject)
            self._apply(subject, value)
            return self._record(verb, summary, subject, before, value)

    def _current(self, subject: str) -> Any:
        kind, _, key = subject.partition("/")
        if kind == "device":
            member = self.roster().devices.get(key)
            return None if member is None else member.to_body()
        if kind == "devices":
            known = self.roster().devices
            return {one: known[one].to_body() if one in known else None for one in key.split(",")}
        if kind == "policy":
            return self.roster().sets.get(key)
        if kind == "head":
            class_set, _, space = key.partition("/")
            head = self.head(Scope(self.fleet, class_set, space, 1))
            if head is None:
                return None
            scope = Scope(head.fleet, head.class_set, head.space, head.dim)
            return _head_value(scope, head.stable, head.canary)
        if kind == "coming":
            envelope = self.coming_bytes().get(key)
            return envelope.hex() if envelope else None
        found = self.proposal(int(key))
        return {"status": found.status, "remark": found.remark}

    def _apply(self, subject: str, value: Any) -> None:
        kind, _, key = subject.partition("/")
        with self.database.atomic() as db:
            if kind == "device":
                member = None if value is None else Member.from_body(value)
                self._keep_roster(self.roster().with_device(key, member))
            elif kind == "devices":
                members = {one: body and Member.from_body(body) for one, body in value.items()}
                self._keep_roster(self.roster().with_devices(members))
            elif kind == "policy":
                self._keep_roster(self.roster().with_policy(key, value))
            elif kind == "head":
                class_set, _, space = key.partition("/")
                head = self.head(Scope(self.fleet, class_set, space, 1))
                dim = value["dim"] if head is None else head.dim
                self._keep_head(Scope(self.fleet, class_set, space, dim), *_read_head(value))
            elif kind == "coming":
                db.execute(
                    "INSERT OR REPLACE INTO coming VALUES (?, ?)",
                    (key, None if value is None else bytes.fromhex(value)),
                )
            else:
                db.execute(
                    "UPDATE proposal SET status = ?, remark = ? WHERE id = ?",
                    (value["status"], value["remark"], int(key)),
                )

    def _keep_head(self, scope: Scope, stable: Version | None, canary: Canary | None) -> None:
        with self.database.atomic() as db:
            (last,) = db.execute(
                "SELECT coalesce(max(version), 0) FROM head WHERE class_set = ? AND space = ?",
                (scope.class_set, scope.space),
            ).fetchone()
            head = ManifestHead(
                scope.fleet, scope.class_set, scope.space, scope.dim, last + 1, stable, canary
            )
            db.execute(
                "INSERT INTO head VALUES (?, ?, ?, ?, ?, ?)",
                (
                    scope.class_set,
                    scope.space,
                    scope.dim,
                    last + 1,
                    head.sealed(self.key),
                    self.now(),
                ),
            )

    def _record(
        self, verb: str, summary: str, subject: str | None, before: Any, after: Any
    ) -> Step:
        with self.database.atomic() as db:
            done = db.execute(
                """INSERT INTO log (at, verb, summary, subject, before, after, actor)
                VALUES (?, ?, ?, ?, ?, ?, ?)""",
                (
                    self.now(),
                    verb,
                    summary,
                    subject,
                    json.dumps(before),
                    json.dumps(after),
                    self.actor,
                ),
            )
            return self.step(int(done.lastrowid or 0))


class WorkspaceLedger:
    """What the owner holds of one class set: all that the devices said, and nothing of its own."""

    def __init__(self, workspace: Workspace, scope: Scope) -> None:
        self._workspace = workspace
        self._database = workspace.database
        self.scope = scope
        self.device = ""

    def unsent(self) -> list[str]:
        return []

    def own(self, class_id: str) -> Own:
        raise NotFound(f"the owner says nothing of its own about class {class_id}")

    def acknowledge(self, class_id: str, revision: int) -> None:
        raise NotFound(f"the owner says nothing of its own about class {class_id}")

    def owned(self) -> dict[str, int]:
        return {}

    def revisions(self) -> dict[tuple[str, str], int]:
        with self._database.reading() as db:
            rows = db.execute(
                """SELECT device, class_id, revision FROM contribution
                WHERE class_set = ? AND space = ?""",
                self._where,
            ).fetchall()
        return {(device, class_id): revision for device, class_id, revision in rows}

    def stamp(self) -> tuple[int, int]:
        """Changes with what is held: how many contributions, and a sum of their revisions."""
        with self._database.reading() as db:
            count, revisions = db.execute(
                """SELECT count(*), coalesce(sum(revision & 0xffffffff), 0) FROM contribution
                WHERE class_set = ? AND space = ?""",
                self._where,
            ).fetchone()
        return int(count), int(revisions)

    def has_part(self, sha256: str) -> bool:
        with self._database.reading() as db:
            found = db.execute("SELECT 1 FROM part WHERE sha256 = ?", (sha256,)).fetchone()
        return found is not None

    def part(self, sha256: str) -> bytes | None:
        with self._database.reading() as db:
            row = db.execute("SELECT body FROM part WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else bytes(row[0])

    def hear(self, heard: Sequence[Heard]) -> Applied:
        taken, classes = 0, set()
        with self._database.atomic() as db:
            for one in heard:
                c = one.contribution
                db.executemany("INSERT OR IGNORE INTO part VALUES (?, ?)", one.parts.items())
                done = db.execute(
                    """INSERT INTO contribution VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO
                    UPDATE SET revision = excluded.revision, envelope = excluded.envelope
                    WHERE excluded.revision > revision""",
                    (*self._where, self.scope.dim, c.device, c.class_id, c.revision, one.envelope),
                )
                if done.rowcount:
                    taken += 1
                    classes.add(c.class_id)
        return Applied(taken, frozenset(classes), f"{taken} contributions" if taken else "")

    def forget(self, device: str) -> None:
        with self._database.atomic() as db:
            db.execute("DELETE FROM contribution WHERE device = ?", (device,))

    @property
    def _where(self) -> tuple[str, str]:
        return self.scope.class_set, self.scope.space

    def summary(self) -> Summary:
        """The classes that devices of the roster have taught, all together."""
        roster = self._workspace.roster()
        kept = [
            one
            for (device, _), one in self.heard().items()
            if (member := roster.devices.get(device)) is not None
            and (member.forgotten is None or one.contribution.revision > member.forgotten)
        ]
        return summarise(kept, self.scope)

    def heard(self) -> dict[tuple[str, str], Heard]:
        """All of it, with all of its bytes."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT envelope FROM contribution WHERE class_set = ? AND space = ?", self._where
            ).fetchall()
            found = {}
            for (envelope,) in rows:
                contribution = Contribution.from_body(parse(split(envelope)[1]))
                parts = {}
                for part in contribution.parts:
                    body = self.part(part.sha256)
                    if body is None:
                        raise corrupt(self._database.path, f"part {part.sha256[:12]} is missing")
                    parts[part.sha256] = body
                found[contribution.key] = Heard(contribution, bytes(envelope), parts)
        return found


_STEP = "seq, at, verb, summary, subject, before, after, undoes, undone_by, actor"


def _step(row: Sequence[Any]) -> Step:
    seq, at, verb, summary, subject, before, after, *rest = row
    return Step(seq, at, verb, summary, subject, json.loads(before), json.loads(after), *rest)


def _overlap(one: Step, other: Step) -> bool:
    """Whether two steps changed the same thing; a step can be about many devices."""

    def subjects(step: Step) -> set[str]:
        kind, _, key = (step.subject or f"step/{step.seq}").partition("/")
        if kind == "devices":
            return {f"device/{device}" for device in key.split(",")}
        return {f"{kind}/{key}"}

    return not subjects(one).isdisjoint(subjects(other))


def _head_value(scope: Scope, stable: Version | None, canary: Canary | None) -> dict[str, Any]:
    return {
        "dim": scope.dim,
        "stable": stable and stable.to_body(),
        "canary": canary
        and {
            "percent": canary.percent,
            "salt": canary.salt,
            "version": canary.version.to_body(),
        },
    }


def _read_head(value: Any) -> tuple[Version | None, Canary | None]:
    if value is None:  # before the first one
        return None, None
    stable, canary = value["stable"], value["canary"]
    return (
        None if stable is None else Version.from_body(stable),
        canary and Canary(canary["percent"], canary["salt"], Version.from_body(canary["version"])),
    )


def _database(folder: Path) -> Database:
    path = folder / DATABASE
    with translated(path):
        path.touch(mode=0o600)
        path.chmod(0o600)
    return Database.versioned(path, _MIGRATIONS, hint="update Accrue on this computer")


def approved_and_denied(
    proposals: Iterable[Proposal], considered: Mapping[tuple[str, str], int]
) -> list[Proposal]:
    """Decided proposals with something that a manifest has not considered yet, oldest first."""
    return [
        p
        for p in proposals
        if p.status in ("approved", "denied")
        and any(revision > considered.get((d, p.class_id), 0) for d, revision in p.entries)
    ]
