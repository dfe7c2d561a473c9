"""What a process takes, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def usage(pid: int) -> tuple[float, int]:
    """Processor seconds and the largest resident memory in bytes of a process; 0 where it ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0, 0
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0")
    return (int(after_name[11]) + int(after_name[12])) * _TICK_S, int(peak) * 1024
