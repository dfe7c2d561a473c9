"""What was answered to requests that may be sent again: so that a retry does nothing twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accrue.errors import StoreError
from accrue.store.database import Database
from accrue.store.failures import translated

log = logging.getLogger("accrue.http")
FILE_NAME = "replies.db"
KEPT_S = 24 * 3600.0
MOST = 2000
_MIGRATIONS = (
    (  # version 0 had it too
        """CREATE TABLE IF NOT EXISTS reply (
    who TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (who, key))""",
    ),
)


@dataclass(frozen=True)
class Reply:
    """An answer that was given. `digest`: SHA-256 of the request."""

    digest: str
    status: int
    body: bytes


class Replies:
    """Answers by who asked and the `Idempotency-Key`, kept for a day, over restarts too."""

    def __init__(self, state: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        path = state / FILE_NAME
        with translated(path):
            state.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._database = Database.versioned(path, _MIGRATIONS)

    def get(self, who: str, key: str) -> Reply | None:
        with self._database.reading() as db:
            row = db.execute(
                "SELECT digest, status, body FROM reply WHERE who = ? AND key = ? AND at > ?",
                (who, key, self._clock() - KEPT_S),
            ).fetchone()
        return None if row is None else Reply(*row)

    def keep(self, who: str, key: str, digest: str, status: int, body: bytes) -> None:
        """Where it cannot be kept, the log says so: what was asked for is done all the same."""
        try:
            self._keep(who, key, digest, status, body)
        except StoreError as error:
            log.warning("an answer is not kept, so the same request would be done again: %s", error)

    def _keep(self, who: str, key: str, digest: str, status: int, body: bytes) -> None:
        now = self._clock()
        with self._database.atomic() as db:
            db.execute("DELETE FROM reply WHERE at <= ?", (now - KEPT_S,))
            db.execute(
                "INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?)",
                (who, key, digest, status, body, now),
            )
            db.execute(
                """DELETE FROM reply WHERE rowid NOT IN
                (SELECT rowid FROM reply ORDER BY at DESC LIMIT ?)""",
                (MOST,),
            )

    def close(self) -> None:
        self._database.close()
