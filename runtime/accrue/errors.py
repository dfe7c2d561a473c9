"""Every error that Accrue raises on purpose.

AccrueError                     exit 1
├── UsageError                  exit 2   the words of the call are off
├── NotFound                    exit 3   a class, shot, journal entry, file or folder is not there
├── AccessDenied                exit 4   whoever asks is not known, or may not do that
├── Conflict                    exit 5   it is there, but something else stands in the way
│   └── SpaceMismatch                    statistics of two embedding spaces would have mixed
├── Refused                     exit 6   a quality gate said no; nothing was changed
├── RateLimited                 exit 1   too much at once; retrying later is safe
├── RowsError                   exit 1   rows that cannot be embeddings (NaN, wrong width, too many)
├── FormatError                 exit 1   bytes of ours that do not parse (state, backup)
│   ├── FutureVersion                    ... because a newer Accrue wrote them
│   └── Rejected                         what another device or the owner sent, not taken over
├── ImageError                  exit 1   a file that is no usable image
├── SourceError                 exit 1   a camera or stream that gives no frames
├── BundleError                 exit 1   an encoder bundle that is incomplete or altered
├── EngineError                 exit 1   an engine that cannot be built, loaded or run here
├── LinkError                   exit 1   the broker of the fleet: not reached, or it said no
│   ├── BrokerUnreachable                nobody answers there; retrying is safe
│   ├── BrokerUntrusted                  its certificate does not lead to the fleet's CA
│   └── BrokerDenied                     wrong password, or a topic that this user may not use
├── Cancelled                   exit 130 stopped by the operator; nothing was written
├── ConfigError                 exit 2   a configuration value that does not fit
└── StoreError                  exit 1   the state folder or its database
    ├── StoreReadOnly
    ├── StoreFull
    ├── StoreBusy                        another process holds the lock; retrying is safe
    └── StoreCorrupt

The message is one line: what was tried, what was found, what was expected. The hint is what the
operator can do or type next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AccrueError(Exception):
    """Base of all expected failures.

    Attributes:
        message: one line, without the hint.
        hint: what to do or type next; may be empty.
        fields: what the message was made of (``path``, ``found``, ``expected`` ...), for machines.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def kind(self) -> str:
        return type(self).__name__


class UsageError(AccrueError):
    exit_code = 2


class NotFound(AccrueError):
    exit_code = 3


class Conflict(AccrueError):
    exit_code = 5


class SpaceMismatch(Conflict):
    pass


class AccessDenied(AccrueError):
    exit_code = 4


class RateLimited(AccrueError):
    retryable = True


class Refused(AccrueError):
    exit_code = 6


class RowsError(AccrueError):
    pass


class FormatError(AccrueError):
    pass


class FutureVersion(FormatError):
    pass


class Rejected(FormatError):
    """A message of the fleet that is not taken over; nothing was changed.

    Attributes:
        reason: one word of `accrue.sync.trust.REASONS`, by which refusals are counted.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "", **fields: Any) -> None:
        super().__init__(message, hint=hint, reason=reason, **fields)
        self.reason = reason


class ImageError(AccrueError):
    pass


class SourceError(AccrueError):
    pass


class BundleError(AccrueError):
    pass


class EngineError(AccrueError):
    pass


class LinkError(AccrueError):
    pass


class BrokerUnreachable(LinkError):
    retryable = True


class BrokerUntrusted(LinkError):
    pass


class BrokerDenied(LinkError):
    pass


class Cancelled(AccrueError):
    exit_code = 130


class ConfigError(AccrueError):
    exit_code = 2


class StoreError(AccrueError):
    pass


class StoreReadOnly(StoreError):
    pass


class StoreFull(StoreError):
    pass


class StoreBusy(StoreError):
    retryable = True


class StoreCorrupt(StoreError):
    pass


def error_object(error: AccrueError) -> dict[str, Any]:
    """The error for machines: kind, message, hint, retryable, and its plain fields."""
    plain = {
        key: value
        for key, value in error.fields.items()
        if isinstance(value, str | int | float | bool | None)
    }
    return {
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
        **plain,
    }
