"""`accrue run` as a process: what it prints, HTTPS, systemd, and how it ends."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_cases import DEADLINE_S, until

from accrue.cli.main import main
from accrue.service.settings import Settings


class Process:
    """`accrue run`, and what it says."""

    def __init__(self, settings: Settings, *words: str, **environment: str) -> None:
        import os

        self.settings = settings
        command = [sys.executable, "-m", "accrue.cli.main", "--state", str(settings.state)]
        command += ["--bundle", str(settings.bundle), "run", *words]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ACCRUE_CONFIG": "", **environment},
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in (
                (self.process.stdout, self.out),
                (self.process.stderr, self.err),
            )
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        lines.extend(iter(stream.readline, ""))

    def said(self, pattern: str) -> re.Match[str]:
        def find() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise AssertionError("".join(self.err))
            return re.search(pattern, "".join(self.out) + "".join(self.err))

        return until(find, 60)  # type: ignore[no-any-return]

    def end(self, by: int = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code


@contextmanager
def process(settings: Settings, *words: str, **environment: str) -> Iterator[Process]:
    started = Process(settings, *words, **environment)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.process.kill()
        started.process.wait(DEADLINE_S)
        for reader in started._readers:
            reader.join(DEADLINE_S)
        for stream in (started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()


def live(url: str, **more: Any) -> bool:
    try:
        return httpx.get(f"{url}/readyz", **more).status_code == 200
    except httpx.TransportError:
        return False


def test_on_loopback_it_prints_an_address_that_pairs_an_owner_once(
    taught: Settings, playing: str, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    more = {"ACCRUE_EVENTS": str(events), "ACCRUE_LOG": "json"}
    with process(taught, playing, "--listen", "127.0.0.1:0", **more) as running:
        found = running.said(r"open (http://127\.0\.0\.1:\d+)/#pair=(\S+)")
        url, code = found[1], found[2]
        until(lambda: live(url))
        body = {"code": code, "name": "laptop"}
        paired = httpx.post(f"{url}/api/v1/pair", json=body)
        assert paired.json()["access"]["role"] == "owner"
        assert httpx.post(f"{url}/api/v1/pair", json=body).status_code == 403
        headers = {"authorization": f"Bearer {paired.json()['token']}"}
        with httpx.Client(base_url=f"{url}/api/v1", headers=headers) as client:
            page = client.get(f"{url}/")
            assert page.headers["content-type"].startswith("text/html")
            until(lambda: (client.get("/cameras").json()["cameras"][0]["answer"] or {}).get("of"))
            client.patch("/classes/nut", json={"name": "hex nut"}).raise_for_status()
            until(lambda: "hex nut" in events.read_text())
        assert running.end() == 0
    for line in running.err:
        if line.startswith("{"):
            assert {"at", "level", "logger", "message"} <= set(json.loads(line))
    kinds = [json.loads(line)["type"] for line in events.read_text().splitlines()]
    assert "classes" in kinds
    assert "access" not in kinds


def test_beyond_loopback_it_speaks_https_that_its_authority_vouches_for(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with process(settings, "--listen", "0.0.0.0:0") as running:
        port = running.said(r"https://\S+:(\d+)")[1]
        assert "PLAIN HTTP" not in "".join(running.err)
        authority = settings.state / "tls" / "ca.pem"
        until(authority.exists)
        trusting = ssl.create_default_context(cafile=str(authority))
        url = f"https://127.0.0.1:{port}"
        until(lambda: live(url, verify=trusting))
        answer = httpx.get(f"{url}/ca.crt", verify=trusting)
        assert answer.content == authority.read_bytes()
        assert "max-age" in answer.headers["strict-transport-security"]
        with pytest.raises(SystemExit):
            main(["--state", str(settings.state), "pair", "--role", "viewer", "--json"])
        code = json.loads(capsys.readouterr().out)["code"]
        body = {"code": code, "name": "phone"}
        paired = httpx.post(f"{url}/api/v1/pair", json=body, verify=trusting)
        assert paired.json()["access"]["role"] == "viewer"
        assert "Secure" in paired.headers["set-cookie"]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")
        assert running.end(signal.SIGINT) == 0
    for name in ("tls/ca.key", "tls/device.key", "access.db"):
        assert (settings.state / name).stat().st_mode & 0o077 == 0


def test_plain_http_beyond_loopback_is_said_and_shown(settings: Settings) -> None:
    with process(settings, "--listen", "0.0.0.0:0", "--plain-http") as running:
        port = running.said(r"http://\S+:(\d+)")[1]
        running.said("PLAIN HTTP")
        until(lambda: live(f"http://127.0.0.1:{port}"))
        assert running.end() == 0


def test_systemd_hears_that_it_is_ready_alive_and_stopping(
    settings: Settings, playing: str, tmp_path: Path
) -> None:
    address = tmp_path / "notify"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        heard: list[str] = []
        more = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "1000000"}
        with process(settings, playing, "--listen", "127.0.0.1:0", **more) as running:
            while sum(text == "WATCHDOG=1" for text in heard) < 3 or "READY" not in str(heard):
                heard.append(systemd.recv(4096).decode())
            assert running.end() == 0
            while heard[-1] != "STOPPING=1":
                heard.append(systemd.recv(4096).decode())
    (ready,) = [text for text in heard if text.startswith("READY=1")]
    assert "STATUS=1 camera, http://127.0.0.1:" in ready


def test_two_do_not_run_on_one_state_folder(settings: Settings) -> None:
    with process(settings, "--listen", "127.0.0.1:0") as running:
        running.said("watching 0 cameras")
        words = ["--state", str(settings.state), "--bundle", str(settings.bundle), "run"]
        done = subprocess.run(
            [sys.executable, "-m", "accrue.cli.main", *words, "--listen", "127.0.0.1:0"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 5
    assert "another `accrue run` has" in done.stderr


def test_a_port_that_is_taken_is_said_in_a_line(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["--state", str(settings.state), "--bundle", str(settings.bundle), "run"]
        with pytest.raises(SystemExit) as left:
            main([*words, "--listen", listen])
    assert left.value.code == 5
    assert f"cannot listen on {listen}" in capsys.readouterr().err


def test_access_is_listed_added_and_revoked_from_the_command_line(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--state", str(settings.state), *words])
        out = capsys.readouterr().out
        return out if left.value.code == 0 else f"exit {left.value.code}"

    token = call("access", "add", "crane", "--role", "operator").strip()
    assert len(token) == 43
    (grant,) = json.loads(call("access", "list", "--json"))["access"]
    assert (grant["name"], grant["role"]) == ("crane", "operator")
    assert token not in call("access", "list")
    assert "crane may not come in" in call("access", "revoke", grant["id"])
    assert call("access", "revoke", grant["id"]) == "exit 3"
    assert json.loads(call("access", "list", "--json"))["access"] == []
    assert re.match(r"[0-9A-Z]{4}-[0-9A-Z]{4}\toperator\t", call("pair"))
