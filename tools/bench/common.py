"""What the benchmarks share: the machine in words, spreads, tables, progress."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BUSY = 0.3  # load a core, before the benchmark starts, from which its figures are in doubt


def find_accrue() -> None:
    """Makes the checkout's `accrue` importable where none is installed."""
    if importlib.util.find_spec("accrue") is None:
        sys.path.insert(0, str(ROOT / "runtime"))


@dataclass(frozen=True)
class Spread:
    """Quartiles, mean and largest of a sample; times in milliseconds."""

    median: float
    q1: float
    q3: float
    mean: float
    largest: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError where `values` is empty."""
        if not values:
            raise ValueError("no values to summarise")
        q1, median, q3 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(median, q1, q3, float(np.mean(values)), float(max(values)), len(values))

    def __str__(self) -> str:
        if self.runs == 1:
            return f"{sig(self.median)} (once)"
        return f"{sig(self.median)} ({sig(self.q1)}-{sig(self.q3)})"


class Clock:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def ms(self) -> float:
        return 1000 * (time.perf_counter() - self._start)


def sig(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def size(n_bytes: float) -> str:
    """A number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{sig(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{sig(n_bytes)} GB"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    lines.insert(1, ["-" * w for w in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def progress(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """CPU, cores, memory, load, BLAS with its threads, and versions: what figures depend on."""
    cores = usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY * cores:
        progress(f"load {load:.1f} on {cores} cores: other programs run, figures will be too high")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_at_start": round(load, 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "blas": _blas(),
        "versions": {name: _version(name) for name in packages},
    }


def resident_mb(pid: int | str = "self") -> float:
    """VmRSS of a process, in units of 10**6 bytes. Raises SystemExit where it tells none."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"process {pid} tells no VmRSS")


def machine_line(machine: dict[str, Any]) -> str:
    blas = ", ".join(f"{b['name']} {b['version']} x{b['threads']}" for b in machine["blas"])
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{blas or 'BLAS unknown'}, load at start {machine['load_at_start']}"
    )


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=_plain) + "\n", encoding="utf-8")
    progress(f"wrote {path}")


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _blas() -> list[dict[str, Any]]:
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    return [
        {"name": b["internal_api"], "version": b["version"], "threads": b["num_threads"]}
        for b in importlib.import_module("threadpoolctl").threadpool_info()
        if b["user_api"] == "blas"
    ]


def _commit() -> str:
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
