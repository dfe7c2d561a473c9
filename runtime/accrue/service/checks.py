"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass
class Check:
    """One finding: `status` is ok, warn or fail. `found` and `expected` where they are plain."""

    name: str
    status: str
    message: str
    hint: str = ""
    found: str = ""
    expected: str = ""
