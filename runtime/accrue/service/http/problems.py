"""Errors as problem+json (RFC 9457), with a hint of what to do."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.responses import Response

from accrue.errors import (
    AccessDenied,
    AccrueError,
    ConfigError,
    Conflict,
    FormatError,
    ImageError,
    LinkError,
    NotFound,
    RateLimited,
    Refused,
    RowsError,
    SourceError,
    StoreBusy,
    StoreFull,
    UsageError,
    error_object,
)

MEDIA = "application/problem+json"
log = logging.getLogger("accrue.http")


class Stale(Conflict):
    """What was to be changed is not what `If-Match` says."""


class AtWork(Conflict):
    """The same request, by its Idempotency-Key, has not been answered yet."""

    retryable = True


class TooLarge(UsageError):
    """More bytes than a request may have."""


class TooSlow(AccrueError):
    """A request whose body does not come."""

    retryable = True


class NotSignedIn(AccessDenied):
    """Nobody is known by this cookie or token."""


STATUS: tuple[tuple[type[AccrueError], int, str], ...] = (
    (Stale, 412, "Changed meanwhile"),
    (TooLarge, 413, "Too large"),
    (TooSlow, 408, "Too slow"),
    (NotSignedIn, 401, "Not signed in"),
    (AccessDenied, 403, "Not allowed"),
    (RateLimited, 429, "Too many requests"),
    (NotFound, 404, "Not found"),
    (Refused, 409, "Held back"),
    (Conflict, 409, "Conflict"),
    (UsageError, 400, "Bad request"),
    (ConfigError, 400, "Bad request"),
    (ImageError, 400, "Not a usable image"),
    (FormatError, 400, "Not a usable file"),
    (RowsError, 400, "Bad request"),
    (StoreBusy, 503, "Busy"),
    (SourceError, 503, "No picture"),
    (LinkError, 502, "The broker did not take part"),
    (StoreFull, 507, "The disk is full"),
)


def status_of(error: AccrueError) -> tuple[int, str]:
    """HTTP status and title of an error."""
    for kind, status, title in STATUS:
        if isinstance(error, kind):
            return status, title
    return 500, "Failed"


def document(error: AccrueError) -> dict[str, Any]:
    """What the body of the answer holds."""
    status, title = status_of(error)
    about = error_object(error)
    kind, message, hint = about.pop("kind"), about.pop("message"), about.pop("hint")
    retryable = about.pop("retryable")
    return {
        "type": f"urn:accrue:error:{kind}",
        "title": title,
        "status": status,
        "detail": message,
        "hint": hint,
        "kind": kind,
        "retryable": retryable,
        "fields": {key: value for key, value in about.items() if value == value},  # no NaN
    }


def problem(error: AccrueError) -> Response:
    about = document(error)
    headers = {"cache-control": "no-store"}
    if about["status"] == 401:
        headers["www-authenticate"] = 'Bearer realm="accrue"'
    if about["status"] in (429, 503):
        headers["retry-after"] = "1"
    body = json.dumps(about, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    return Response(body, about["status"], headers, MEDIA)


def unexpected(error: BaseException) -> Response:
    """For what should not happen: the log has more than the one who asked."""
    log.error("unexpected: %s", " ".join(repr(error).split()), exc_info=error)
    return problem(
        AccrueError(f"unexpected {type(error).__name__}", hint="the log of the device says where")
    )
