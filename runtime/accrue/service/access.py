"""Who may do what on this device: roles, tokens that can be taken back, and codes to pair with."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from accrue.errors import (
    AccessDenied,
    NotFound,
    RateLimited,
    StoreError,
    UsageError,
)
from accrue.store.database import Database
from accrue.store.failures import translated

FILE_NAME = "access.db"
VIEWER, OPERATOR, OWNER = ROLES = ("viewer", "operator", "owner")
CODE_SECONDS = 300
CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford: no I, L, O, U
CODE_LENGTH = 8  # 40 bits; with `MOST_TRIES` a minute, a guess hits one in 10^10 times
MOST_TRIES, TRIES_WITHIN_S = 20, 60.0
MOST_GRANTS, LONGEST_NAME = 200, 80
SEEN_EVERY_S = 60.0  # that `seen` is written at most; a disk is not for every request
MIGRATIONS = (  # as of `Database.versioned`
    (
        """CREATE TABLE access (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'owner')),
    hash BLOB NOT NULL UNIQUE,
    made REAL NOT NULL,
    made_by TEXT NOT NULL,
    seen REAL)""",
        """CREATE TABLE pairing (
    hash BLOB PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'owner')),
    expires REAL NOT NULL,
    made_by TEXT NOT NULL)""",
    ),
)


@dataclass(frozen=True)
class Grant:
    """One who may come in: a browser, a program.

    Attributes:
        name: as it is written into the journal. role: `viewer`, `operator` or `owner`.
        made, seen: unix seconds; `seen` is None before the first use. made_by: who let it in.
    """

    id: str
    name: str
    role: str
    made: float
    made_by: str
    seen: float | None

    def may(self, role: str) -> bool:
        """Whether it has at least this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class Code:
    """A code to pair with, once. `expires` is in unix seconds."""

    code: str
    role: str
    expires: float


class Access:
    """The list, in a file of its own beside the state; no backup of what was learned has it.

    Of tokens and codes their SHA-256 alone is kept: a token has 256 random bits, and a code is
    worth nothing after five minutes. Safe for several threads and processes.
    """

    def __init__(
        self,
        state: Path,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._ticks = clock, ticks
        self._tries: list[float] = []
        path = state / FILE_NAME
        with translated(path):
            state.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._database = Database.versioned(path, MIGRATIONS)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Access:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all(self) -> list[Grant]:
        """Oldest first."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, name, role, made, made_by, seen FROM access ORDER BY made"
            )
            return [Grant(*row) for row in rows]

    def add(self, name: str, role: str, *, by: str) -> tuple[Grant, str]:
        """Lets somebody in; the token is told here, and never again.

        Raises:
            UsageError: not a name, or not a role.
        """
        name = _name(name)
        _check_role(role)
        token = secrets.token_urlsafe(32)
        grant = Grant(secrets.token_hex(4), name, role, self._clock(), by, None)
        with self._database.atomic() as db:
            (count,) = db.execute("SELECT count(*) FROM access").fetchone()
            if count >= MOST_GRANTS:
                raise UsageError(
                    f"{count} have access, as many as there may be",
                    hint="revoke those that are not needed: `accrue access revoke ID`",
                    found=count,
                )
            db.execute(
                "INSERT INTO access VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (grant.id, grant.name, grant.role, _hash(token), grant.made, by),
            )
        return grant, token

    def revoke(self, one: str) -> Grant:
        """Takes access back, at once. Raises NotFound."""
        with self._database.atomic() as db:
            row = db.execute(
                "SELECT id, name, role, made, made_by, seen FROM access WHERE id = ?", (one,)
            ).fetchone()
            if row is None:
                raise NotFound(
                    f"no access {one[:40]!r}", hint="see `accrue access list`", found=one
                )
            db.execute("DELETE FROM access WHERE id = ?", (one,))
        return Grant(*row)

    def who(self, token: str) -> Grant | None:
        """Whose token it is; None if nobody's."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT id, name, role, made, made_by, seen FROM access WHERE hash = ?",
                (_hash(token),),
            ).fetchone()
        if row is None:
            return None
        grant, now = Grant(*row), self._clock()
        if grant.seen is None or now - grant.seen > SEEN_EVERY_S:
            with (
                suppress(StoreError),
                self._database.atomic() as db,
            ):  # a full disk locks nobody out
                db.execute("UPDATE access SET seen = ? WHERE id = ?", (now, grant.id))
        return grant

    def invite(self, role: str, *, by: str, seconds: float = CODE_SECONDS) -> Code:
        """A new code to pair with, for one use."""
        _check_role(role)
        plain = "".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_LENGTH))
        now = self._clock()
        with self._database.atomic() as db:
            db.execute("DELETE FROM pairing WHERE expires <= ?", (now,))
            db.execute(
                "INSERT INTO pairing VALUES (?, ?, ?, ?)",
                (_hash(plain), role, now + seconds, by),
            )
        return Code(f"{plain[:4]}-{plain[4:]}", role, now + seconds)

    def redeem(self, code: str, name: str) -> tuple[Grant, str]:
        """Exchanges a code for access; the code is used up.

        Raises:
            AccessDenied: no such code, or not any more. RateLimited: too many were tried.
            UsageError: not a name; the code can still be used.
        """
        name = _name(name)
        now = self._clock()
        tick = self._ticks()  # setting the clock neither locks out nor lets guess on
        self._tries = [at for at in self._tries if tick - at < TRIES_WITHIN_S]
        if len(self._tries) >= MOST_TRIES:
            raise RateLimited(
                "too many pairing codes were tried", hint="wait a minute, then try again"
            )
        plain = code.upper().replace("-", "").replace(" ", "")
        plain = plain.translate(str.maketrans("ILO", "110"))
        with self._database.atomic() as db:
            row = db.execute(
                "SELECT role, made_by FROM pairing WHERE hash = ? AND expires > ?",
                (_hash(plain), now),
            ).fetchone()
            if row is not None:
                db.execute("DELETE FROM pairing WHERE hash = ?", (_hash(plain),))
                return self.add(name, row[0], by=row[1])
        self._tries.append(tick)
        raise AccessDenied(
            "this pairing code is wrong, was used, or has expired",
            hint="make a new one: `accrue pair`, or Device, Pair in the console",
        )

    @property
    def owned(self) -> bool:
        """Whether there is an owner yet."""
        return any(grant.role == OWNER for grant in self.all())


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _name(name: str) -> str:
    clean = " ".join(name.split())
    if not clean or len(clean) > LONGEST_NAME or not clean.isprintable():
        raise UsageError(
            f"{clean[:LONGEST_NAME]!r} is not a name; expected 1 to {LONGEST_NAME} characters",
            hint="name the person or the device, as in: tablet of line 3",
        )
    return clean


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UsageError(f"no role {role[:40]!r}; expected {', '.join(ROLES)}", found=role)
