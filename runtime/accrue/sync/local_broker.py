"""Runs Mosquitto on this machine as a child process: for tests, the demo and the simulator."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from accrue.errors import LinkError, NotFound
from accrue.sync.broker import BrokerFolder, BrokerPlan, new_password, write_broker
from accrue.sync.endpoint import Endpoint
from accrue.sync.topics import Role

PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto")
START_S = STOP_S = 20.0
LOOPBACK = "127.0.0.1"


def find_mosquitto() -> Path:
    """The broker's program.

    Raises:
        NotFound: with how to install it.
    """
    for place in (shutil.which("mosquitto"), *PLACES):
        if place and os.access(place, os.X_OK):
            return Path(place)
    raise NotFound("Mosquitto is not installed", hint="apt-get install mosquitto")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class LocalBroker:
    """Mosquitto on a free port of the loopback interface, with what `write_broker` writes.

    Attributes:
        files: its folder. passwords: of the accounts made here.

    Example::

        with LocalBroker(folder, BrokerPlan("dock")) as broker:
            broker.add("0123456789ab", "device")
            link = Link(broker.endpoint("0123456789ab"), ...)
    """

    def __init__(
        self, folder: Path, plan: BrokerPlan, accounts: Mapping[str, Role] | None = None
    ) -> None:
        self.program = find_mosquitto()
        account = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else ""
        self.plan = replace(
            plan,
            hosts=tuple(dict.fromkeys([*plan.hosts, "localhost", LOOPBACK])),
            port=free_port(),
            bind=LOOPBACK,
            run_as=account,
        )
        self.files: BrokerFolder = write_broker(folder, self.plan)
        self.passwords: dict[str, str] = {}
        self._log: deque[str] = deque(maxlen=1000)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        for user, role in (accounts or {}).items():
            self.add(user, role)

    @property
    def log(self) -> list[str]:
        """Its last lines, oldest first."""
        return list(self._log)

    @property
    def port(self) -> int:
        return self.plan.port

    @property
    def pid(self) -> int:
        """Raises LinkError where it does not run."""
        if self._process is None:
            raise LinkError("the broker does not run")
        return self._process.pid

    def add(self, user: str, role: Role) -> Endpoint:
        """Makes an account with a new password; a running broker reads it by `reload`."""
        self.passwords[user] = new_password()
        self.files.set_account(user, role, self.passwords[user])
        return self.endpoint(user)

    def endpoint(self, user: str, port: int | None = None) -> Endpoint:
        return Endpoint(
            LOOPBACK,
            self.port if port is None else port,
            user,
            self.passwords[user],
            self.files.ca if self.plan.tls else None,
            self.plan.tls,
        )

    def start(self) -> None:
        """Returns when it listens.

        Raises:
            LinkError: it ended at once, or said nothing for 20 s; with its last line.
        """
        running = threading.Event()
        process = subprocess.Popen(
            [self.program, "-c", self.files.configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._process = process

        def read() -> None:
            assert process.stderr is not None
            with process.stderr as lines:
                for line in lines:
                    self._log.append(line.rstrip())
                    if line.rstrip().endswith(" running"):
                        running.set()
            running.set()

        self._reader = threading.Thread(target=read, name="mosquitto-log", daemon=True)
        self._reader.start()
        if not running.wait(START_S) or process.poll() is not None:
            last = self._log[-1] if self._log else "it said nothing"
            self.kill()
            raise LinkError(f"Mosquitto did not start on port {self.port}: {last}")

    def stop(self) -> None:
        """As systemd would: it saves what is retained."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would: what came since the last saving is lost."""
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        """Makes it read accounts and the access list again."""
        os.kill(self.pid, signal.SIGHUP)

    def forget_everything(self) -> None:
        """Deletes what a stopped broker had retained."""
        shutil.rmtree(self.files.data)
        self.files.data.mkdir()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()

    def __enter__(self) -> LocalBroker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
