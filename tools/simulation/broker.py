"""A real Mosquitto on a free loopback port: started, killed, restarted and measured."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accrue.errors import NotFound, UsageError

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 20.0


def mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/sbin")
    if found is None:
        raise NotFound(
            "mosquitto is not installed; the simulator runs against the real one",
            hint="Debian and Ubuntu: apt-get install mosquitto",
        )
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Load:
    """What the broker's processes took so far, restarts included."""

    cpu_s: float = 0.0
    peak_rss_bytes: int = 0


@dataclass
class Broker:
    """Mosquitto in `folder`, with this configuration file.

    Attributes:
        starts: how often it was started.
        load: of the processes that have ended; `measured` adds the present one.
    """

    folder: Path
    configuration: Path
    port: int
    starts: int = 0
    load: Load = field(default_factory=Load)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "mosquitto.log").open("ab")
        self._process = subprocess.Popen(
            [mosquitto(), "-c", str(self.configuration)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.starts += 1
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        tail = (self.folder / "mosquitto.log").read_text(errors="replace")[-2000:]
        raise UsageError(f"Mosquitto did not start on port {self.port}: {tail}")

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def measured(self) -> Load:
        cpu_s, rss = usage(self.pid)
        return Load(
            self.load.cpu_s + cpu_s,
            max(self.load.peak_rss_bytes, rss),
        )

    def kill(self) -> None:
        """As a power cut: nothing is saved that was not saved before."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self.load = self.measured()
        self._process.send_signal(how)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None


def usage(pid: int) -> tuple[float, int]:
    """Processor seconds and the largest resident memory in bytes of a process; 0 where it ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0, 0
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0")
    return (int(after_name[11]) + int(after_name[12])) * _TICK_S, int(peak) * 1024


def plain_configuration(folder: Path, port: int, extra: Sequence[str] = ()) -> Path:
    """A configuration without passwords, for loopback: retained messages are kept on the disk."""
    path = folder / "mosquitto.conf"
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_interval 1",
        "max_queued_messages 0",
        "max_packet_size 2000000",
        "sys_interval 1",
        "log_type error",
        "log_type warning",
        *extra,
    ]
    if os.getuid() == 0:
        lines.append("user root")
    path.write_text("\n".join(lines) + "\n")
    return path
