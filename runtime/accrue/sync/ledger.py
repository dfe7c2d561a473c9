"""What the exchange with the broker asks of a device, whatever it keeps its state in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accrue.sync.contribution import Contribution, Scope


@dataclass(frozen=True)
class Own:
    """A contribution of the device itself, ready to be sent.

    Attributes:
        envelope: the signed bytes. parts: SHA-256 to packed bytes, of every part it lists.
    """

    contribution: Contribution
    envelope: bytes
    parts: Mapping[str, bytes]


@dataclass(frozen=True)
class Heard:
    """A contribution of another device: verified, whole and newer than the one held.

    Attributes:
        envelope: as it was signed.
        parts: SHA-256 to packed bytes, of the parts that the ledger did not have.
    """

    contribution: Contribution
    envelope: bytes
    parts: Mapping[str, bytes]


@dataclass(frozen=True)
class Applied:
    """What hearing changed.

    Attributes:
        taken: contributions that replaced an older one or were new.
        classes: ids of the classes that they are about.
        summary: one line for people; empty where nothing changed.
    """

    taken: int = 0
    classes: frozenset[str] = field(default_factory=frozenset)
    summary: str = ""


class Ledger(Protocol):
    """One device's side of the exchange. Each call is one transaction."""

    @property
    def scope(self) -> Scope: ...

    @property
    def device(self) -> str: ...

    def unsent(self) -> list[str]:
        """Classes whose own contribution the broker has not acknowledged, oldest change first."""
        ...

    def own(self, class_id: str) -> Own:
        """Raises NotFound where the device has never said anything about the class."""
        ...

    def acknowledge(self, class_id: str, revision: int) -> None:
        """The broker has this revision and its parts; a newer one stays unsent."""
        ...

    def owned(self) -> dict[str, int]:
        """Class id to revision, of all own contributions."""
        ...

    def revisions(self) -> dict[tuple[str, str], int]:
        """(device, class id) to revision, of what others said."""
        ...

    def has_part(self, sha256: str) -> bool: ...

    def part(self, sha256: str) -> bytes | None:
        """The packed bytes of a part, own or heard; None where there are none."""
        ...

    def hear(self, heard: Sequence[Heard]) -> Applied:
        """Takes contributions over. A part may be in `parts` of none of them and be listed by one,
        where the ledger had it: nothing is dropped before all of them are taken over."""
        ...

    def forget(self, device: str) -> None:
        """Drops all that another device said."""
        ...
