"""A fleet on this machine for tests: owner, Mosquitto and devices, through the real programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from accrue.cli import main as device_cli
from accrue.cli import owner as owner_cli
from accrue.errors import NotFound
from accrue.sync.local_broker import find_mosquitto, free_port


@dataclass(frozen=True)
class Done:
    """One call: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(program: Callable[[list[str]], None], *words: object) -> Done:
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


class World:
    """Attributes:
    folder: of everything. port: of the broker.
    """

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        self.bundle = bundle
        self.bundles: dict[str, Path] = {}  # of devices with another one
        self.port = free_port()
        self._broker: subprocess.Popen[str] | None = None

    @property
    def configuration(self) -> Path:
        return self.folder / "owner" / "broker" / "mosquitto.conf"

    def owner(self, *words: object, code: int = 0) -> Done:
        done = call(owner_cli.main, "--fleet", self.folder / "owner", *words)
        assert done.code == code, (words, done)
        return done

    def device(self, name: str, *words: object, code: int = 0) -> Done:
        done = call(device_cli.main, *self._device(name), *words)
        assert done.code == code, (name, words, done)
        return done

    def _device(self, name: str) -> list[str]:
        bundle = self.bundles.get(name, self.bundle)
        return ["--state", str(self.folder / name), "--bundle", str(bundle)]

    def start_device(self, name: str, *words: str) -> subprocess.Popen[str]:
        """A call in a process of its own."""
        return _start("accrue.cli.main", *self._device(name), *words)

    def start_owner(self, *words: str) -> subprocess.Popen[str]:
        return _start("accrue.cli.owner", "--fleet", str(self.folder / "owner"), *words)

    def start(self) -> None:
        """The fleet and its broker, from an empty folder."""
        self.owner("init", "plant")
        run_as = ["--run-as", pwd.getpwuid(os.geteuid()).pw_name] if os.geteuid() == 0 else []
        where = ["--host", "127.0.0.1", "--port", self.port, "--bind", "127.0.0.1"]
        self.owner("broker", *where, *run_as)
        self.start_broker()

    def start_broker(self) -> None:
        try:
            mosquitto = find_mosquitto()
        except NotFound as error:
            pytest.skip(f"{error.message}: {error.hint}; ./tools/test installs it")
        process = subprocess.Popen(
            [mosquitto, "-c", self.configuration], stderr=subprocess.PIPE, text=True
        )
        self._broker = process
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(" running"):
                break
        else:
            raise AssertionError("Mosquitto did not start")

    def stop_broker(self) -> None:
        if self._broker is not None:
            self._broker.terminate()
            self._broker.communicate()
            self._broker = None

    def join(self, *names: str) -> None:
        """Devices that join by tickets."""
        for name in names:
            file, ticket = self.folder / f"{name}.json", self.folder / f"{name}.ticket"
            said = self.device(name, "fleet", "identity", "--name", name, "--json")
            file.write_text(said.out)
            self.owner("roster", "add", file, "--ticket", ticket)
            self.device(name, "fleet", "join", "--ticket", ticket)

    def sync(self, *names: str) -> dict[str, Any]:
        """Each in turn; what the last one said."""
        done: dict[str, Any] = {}
        for name in names:
            done = self.device(name, "fleet", "sync", "--json").json
            assert done["settled"], done
        return done

    def classes(self, name: str) -> dict[str, int]:
        listed = self.device(name, "class", "list", "--json").json
        return {one["name"]: one["shots"] for one in listed["classes"]}

    def digest(self, name: str) -> str:
        return str(self.device(name, "class", "list", "--json").json["digest"])


def _start(module: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", module, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
