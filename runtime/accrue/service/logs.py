"""The log of a service: one line each, for people or for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TextIO

# What every record has: all else was given with `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class JsonLines(logging.Formatter):
    """One JSON object a line: `at`, `level`, `logger`, `message`, and what was given as extra."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        about = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _USUAL},
        }
        if record.exc_info:
            about["trace"] = self.formatException(record.exc_info)
        return json.dumps(about, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """`time level message key=value`; under systemd, which has its own time, with its priority.

    Args:
        journal: whether systemd's journal reads it.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(
            f" {key}={value}" for key, value in vars(record).items() if key not in _USUAL
        )
        text = f"{record.getMessage()}{extra}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._journal:
            prefix = f"<{_PRIORITY.get(record.levelname, 6)}>"
            return "\n".join(prefix + line for line in text.splitlines())
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        return f"{at} {record.levelname.lower():<7} {text}"


def set_up(
    form: str, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Sends what is logged to a stream (stderr), in the form of the setting `log`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    journal = "JOURNAL_STREAM" in environment
    handler.setFormatter(JsonLines() if form == "json" else Text(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
