"""What a device says of itself to its fleet: versions, digests, lag, refusals. Signed, retained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.errors import FormatError, Rejected
from accrue.sync.content import fields, malformed
from accrue.sync.identity import DEVICE_ID, hex_key
from accrue.sync.roster import RosterTrust
from accrue.sync.signed import parse, seal, signed_bytes, split

FORMAT = "report/1"
TEXT_LIMIT = 500  # characters
TEN_THOUSANDTHS = 10_000  # how shares are written: there are no fractions in canonical JSON


@dataclass(frozen=True)
class SetReport:
    """One class set of a device.

    Attributes:
        digest: of the view; 64 hex characters. classes, shots: live ones in it.
        manifest: number of the content that is installed; 0: none. wanted: of the one that should
            be. refused: why that one was rolled back, in words; empty where it was not.
        accuracy: left-out accuracy on kept shots, in ten-thousandths; None where it is not known.
        before: the same before the last manifest was installed. left_out: over how many shots.
        drafts: own contributions that the owner has not looked at.
    """

    class_set: str
    space: str
    digest: str = ""
    classes: int = 0
    shots: int = 0
    manifest: int = 0
    wanted: int = 0
    refused: str = ""
    accuracy: int | None = None
    before: int | None = None
    left_out: int = 0
    drafts: int = 0

    def to_body(self) -> dict[str, Any]:
        return {"set" if k == "class_set" else k: v for k, v in vars(self).items()}

    @classmethod
    def from_body(cls, body: Any) -> SetReport:
        found = fields(
            body,
            "report, sets",
            set=str,
            space=str,
            digest=str,
            classes=int,
            shots=int,
            manifest=int,
            wanted=int,
            refused=str,
            accuracy=None,
            before=None,
            left_out=int,
            drafts=int,
        )
        for key in ("accuracy", "before"):
            value = found[key]
            if not (value is None or (type(value) is int and 0 <= value <= TEN_THOUSANDTHS)):
                raise malformed(f"report, {key}", "ten-thousandths or null")
        if any(len(found[key]) > TEXT_LIMIT for key in ("set", "space", "digest", "refused")):
            raise malformed("report", f"texts of at most {TEXT_LIMIT} characters")
        return cls(found["set"], **{k: v for k, v in found.items() if k != "set"})


@dataclass(frozen=True)
class NextKey:
    """A key that the device wants to use from a stamp on. The report's signature vouches for it."""

    key: bytes
    from_stamp: int


@dataclass(frozen=True)
class Report:
    """Attributes:
    stamp: when. roster: version that it goes by. unsent: contributions that wait.
    lag_ms: from the stamp of what it applied last to when it did; None: nothing yet.
    refused: messages refused since it started, by reason.
    """

    fleet: str
    device: str
    stamp: int
    agent: str = ""
    roster: int = 0
    unsent: int = 0
    lag_ms: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    sets: tuple[SetReport, ...] = ()
    next_key: NextKey | None = None

    def sealed(self, key: Ed25519PrivateKey) -> bytes:
        return seal(
            "report",
            {
                "accrue": FORMAT,
                "fleet": self.fleet,
                "device": self.device,
                "stamp": self.stamp,
                "agent": self.agent,
                "roster": self.roster,
                "unsent": self.unsent,
                "lag_ms": self.lag_ms,
                "refused": dict(self.refused),
                "sets": [one.to_body() for one in self.sets],
                "next_key": self.next_key and [self.next_key.key.hex(), self.next_key.from_stamp],
            },
            key,
        )

    @classmethod
    def open(cls, envelope: bytes, trust: RosterTrust, fleet: str, device: str) -> Report:
        """A report as it came on the topic of `device`. Raises Rejected."""
        signature, body = split(envelope)
        found = fields(
            parse(body),
            "report",
            accrue=str,
            fleet=str,
            device=str,
            stamp=int,
            agent=str,
            roster=int,
            unsent=int,
            lag_ms=None,
            refused=dict,
            sets=list,
            next_key=None,
        )
        if found["accrue"] != FORMAT or not DEVICE_ID.fullmatch(found["device"]):
            raise malformed("report", FORMAT)
        if (found["fleet"], found["device"]) != (fleet, device):
            raise Rejected("a report on another's topic", reason="wrong-scope")
        reason = trust.verify(device, found["stamp"], signature, signed_bytes("report", body))
        if reason is not None:
            raise Rejected(f"report of {device}: {reason}", reason=reason)
        if any(type(n) is not int for n in found["refused"].values()):
            raise malformed("report, refused", "counts")
        if not (found["lag_ms"] is None or type(found["lag_ms"]) is int):
            raise malformed("report, lag_ms", "milliseconds or null")
        return cls(
            fleet,
            device,
            found["stamp"],
            found["agent"][:TEXT_LIMIT],
            found["roster"],
            found["unsent"],
            found["lag_ms"],
            found["refused"],
            tuple(SetReport.from_body(one) for one in found["sets"]),
            _next_key(found["next_key"]),
        )


def _next_key(value: Any) -> NextKey | None:
    if value is None:
        return None
    try:
        key, stamp = value
        if type(stamp) is not int or stamp < 0:
            raise ValueError("no stamp")
        return NextKey(hex_key(key, "next_key"), stamp)
    except (TypeError, ValueError, FormatError):
        raise malformed("report, next_key", "a key and a stamp") from None
