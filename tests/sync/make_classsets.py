"""Writes the class set files of tests/data/classset: one that is good, and each defect by itself.

    PYTHONPATH=runtime:tests/sync python tests/sync/make_classsets.py

Run it once for each version of the format; what is kept is never written again.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

from test_archive import KEY, SAMPLES, heard

from accrue.errors import AccrueError
from accrue.sync.archive import read_set, write_set


def main() -> None:
    from owner_cases import SCOPE

    good = SAMPLES / "good.set"
    good.parent.mkdir(parents=True, exist_ok=True)
    about = {"signer": "d0ck00000003", "key": KEY, "at_ms": 1_700_000_000_000}
    write_set(good, SCOPE, heard(), **about)  # type: ignore[arg-type]
    data = good.read_bytes()
    head = 16
    (length,) = struct.unpack_from("<I", data, 12)
    body = head + length
    defects = {
        "truncated": data[:-7],
        "not-one": b"ACCRBAK\n" + data[8:],
        "future-version": data[:8] + struct.pack("<I", 2) + data[12:],
        "forged": data[:head] + bytes(64) + data[head + 64 :],
        "altered-content": data[: body + 5] + bytes([data[body + 5] ^ 1]) + data[body + 6 :],
    }
    for name, defect in defects.items():
        _keep(SAMPLES / name, defect)
    other = SAMPLES / "wrong-scope" / "classes.set"
    other.parent.mkdir(exist_ok=True)
    write_set(other, replace(SCOPE, class_set="other"), heard(), **about)  # type: ignore[arg-type]
    _keep(other.parent, other.read_bytes())


def _keep(folder: Path, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "classes.set"
    path.write_bytes(data)
    try:
        read_set(path)
    except AccrueError as error:
        expected = {"kind": error.kind, "message": error.message.replace(str(path), "FILE")}
        (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    else:
        raise SystemExit(f"{folder.name} is read as if it were good")


if __name__ == "__main__":
    main()
