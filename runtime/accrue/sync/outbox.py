"""Outgoing messages that must not be forgotten, by topic: the latest replaces the others.

What a device says about its classes needs no outbox: the ledger knows what the broker has not
acknowledged. This is for the rest, such as topics still to be cleared.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

from accrue.store.failures import translated


class Outbox(Protocol):
    def put(self, topic: str, payload: bytes) -> None:
        """Keeps a message until it is removed."""
        ...

    def remove(self, topic: str, payload: bytes) -> None:
        """It has been sent. One that was put there in the meantime stays."""
        ...

    def entries(self) -> list[tuple[str, bytes]]:
        """(topic, payload), oldest first."""
        ...


class MemoryOutbox:
    """For devices that keep nothing over a restart."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def put(self, topic: str, payload: bytes) -> None:
        self._entries.pop(topic, None)
        self._entries[topic] = payload

    def remove(self, topic: str, payload: bytes) -> None:
        if self._entries.get(topic) == payload:
            del self._entries[topic]

    def entries(self) -> list[tuple[str, bytes]]:
        return list(self._entries.items())


class DiskOutbox:
    """A small SQLite database; each call is on the disk when it returns.

    Raises (all calls):
        StoreError: and its kinds, as of the state folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with translated(path):
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                "CREATE TABLE IF NOT EXISTS outbox ("
                " position INTEGER PRIMARY KEY AUTOINCREMENT,"
                " topic TEXT NOT NULL UNIQUE, payload BLOB NOT NULL)"
            )

    def put(self, topic: str, payload: bytes) -> None:
        with translated(self._path):
            self._database.execute(
                "INSERT OR REPLACE INTO outbox (topic, payload) VALUES (?, ?)", (topic, payload)
            )

    def remove(self, topic: str, payload: bytes) -> None:
        with translated(self._path):
            self._database.execute(
                "DELETE FROM outbox WHERE topic = ? AND payload = ?", (topic, payload)
            )

    def entries(self) -> list[tuple[str, bytes]]:
        with (
            translated(self._path),
            closing(
                self._database.execute("SELECT topic, payload FROM outbox ORDER BY position")
            ) as rows,
        ):
            return [(topic, bytes(payload)) for topic, payload in rows]

    def close(self) -> None:
        self._database.close()
