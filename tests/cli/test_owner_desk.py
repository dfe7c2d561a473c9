"""`accrue-fleet console`: a browser on the owner's computer, and the key stays in its folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from accrue.cli import owner
from accrue.sync.workspace import Workspace
from fleet_world import call


@pytest.mark.slow
def test_the_owner_is_paired_and_led_to_what_is_to_be_decided(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    folder = tmp_path / "owner"
    Workspace.create(folder, "plant").close()
    words = ["--fleet", str(folder), "console", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "ACCRUE_BUNDLE": str(tiny_bundle), "ACCRUE_CONFIG": ""}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "accrue.cli.owner", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    killer = threading.Timer(120, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        said = ""
        while (found := re.search(r"open (\S+)/#pair=([\w-]+)", said)) is None:
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        url, code = found.groups()
        headers = {"Origin": url}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            paired = http.post("/pair", data={"code": code, "name": "Olga"})
            assert paired.headers["location"] == "/fleet/owner"
            page = http.get("/fleet/owner").text
            assert "plant" in page
            assert "This device holds the key of the fleet" in page
            known = http.get("/api/v1/fleet/owner").json()
            assert (known["fleet"], known["devices"]) == ("plant", [])
            key = (folder / "owner.key").read_text().strip()
            assert key not in page
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
        assert f"with the owner's key in {folder}" in err
        assert key not in out + err
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    kept = [path.read_bytes() for path in (folder / "console").rglob("*") if path.is_file()]
    assert kept
    assert not any(key.encode() in content for content in kept), "the key is in one place"


def test_without_a_fleet_nothing_is_started(tmp_path: Path) -> None:
    done = call(owner.main, "--fleet", tmp_path, "console")
    assert done.code == 3
    assert "make a fleet: accrue-fleet init FLEET" in done.err
