"""An image's first boot under systemd: the payload that it carries is installed and runs; updates
are kept or taken back by themselves.

What is installed is a wheel of a few lines that answers as `accrue run` does, so that an
installation takes a second; the units, accrue-release and the staged tree are the real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine, why_not

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/provision")]

import release_world  # noqa: E402
from release_world import carried  # noqa: E402

from provisioning.overlay import enable  # noqa: E402

# As `accrue`, with a service that is ready and answers /readyz, or does not start.
MODULE = """
import json, os, socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"ok": True, "reason": "", "version": {version!r}}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

def run():
    if not {works}:
        sys.exit("release {version} cannot start")
    server = HTTPServer(("127.0.0.1", 8420), Ready)
    place = {{"url": "http://127.0.0.1:8420", "loopback": True}}
    Path("/var/lib/accrue/run.json").write_text(json.dumps(place))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tell("READY=1")
    while True:
        tell("WATCHDOG=1")
        time.sleep(1)

def main():
    words = sys.argv[1:]
    if words == ["run"]:
        run()
    elif words == ["--version"]:
        print({version!r})
    elif words[:2] == ["bundle", "verify"]:
        sys.exit(None if Path(words[2], "manifest.json").is_file() else "no bundle")
"""
QUICK = "[Service]\nEnvironment=ACCRUE_RELEASE_WAIT=20\n"


def unfit() -> str:
    if why := why_not():
        return why
    python = Path("/usr/bin/python3")
    if not python.exists():
        return "the system has no /usr/bin/python3: apt-get install python3"
    asked = [str(python), "-c", "import sys, venv; print(*sys.version_info[:2])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.stdout.split() != [str(n) for n in sys.version_info[:2]]:
        return f"the system's Python is {done.stdout.strip() or 'without venv'}, not the tests' own"
    return ""


pytestmark = [
    pytest.mark.skipif(bool(unfit()), reason=unfit()),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path
) -> Iterator[tuple[Machine, dict[str, Path]]]:
    """A machine of a staged tree, not booted yet, and payloads that are brought to it later."""
    patch = pytest.MonkeyPatch()
    patch.setattr(release_world, "MODULE", MODULE)
    folder = tmp_path_factory.mktemp("image")
    later: dict[str, Path] = {}
    try:
        carried(folder / "1.0", tiny_bundle, "1.0")
        for version, works in (("1.1", True), ("1.2", False)):
            later[version] = carried(folder / version, tiny_bundle, version, works=works)[0]
    finally:
        patch.undo()
    tree = folder / "1.0" / "root"
    enable(tree)
    one = Machine(folder / "machine", tree / "usr")
    for path in (tree / "etc").rglob("*"):
        there = one.root / path.relative_to(tree)
        if path.is_symlink():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(path.readlink())
        elif path.is_file():
            one.write(str(path.relative_to(tree)), path.read_text())
    for unit in ("accrue-release", "accrue-health"):
        one.write(f"etc/systemd/system/{unit}.service.d/quick.conf", QUICK)
    for version, payload in later.items():
        subprocess.run(["cp", "-r", payload, one.root / "var" / payload.name], check=True)
        later[version] = Path("/var", payload.name)
    try:
        yield one, later
    finally:
        one.cut_power()


def answers(machine: Machine) -> str:
    """The version that answers; "" where none does."""
    code = (
        "import json, urllib.request as u;"
        "print(json.load(u.urlopen('http://127.0.0.1:8420/readyz', timeout=5))['version'])"
    )
    return machine.run("/usr/bin/python3", "-c", code).stdout.strip()


def status(machine: Machine) -> dict[str, object]:
    done = machine.run("/usr/sbin/accrue-release", "status", "--json")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_first_boot_installs_what_the_image_carries(
    image: tuple[Machine, dict[str, Path]],
) -> None:
    machine, _ = image
    machine.boot()
    machine.until(lambda: answers(machine) == "1.0")
    assert machine.show("accrue-release", "Result")["Result"] == "success"
    assert machine.show("accrue", "ActiveState")["ActiveState"] == "active"
    found = status(machine)
    assert (found["version"], found["trial"], found["problems"]) == ("1.0", None, [])


def test_an_update_that_is_well_is_kept_by_itself(
    image: tuple[Machine, dict[str, Path]],
) -> None:
    machine, later = image
    words = ("/usr/sbin/accrue-release", "install", str(later["1.1"]), "--trial", "--no-wait")
    machine.run(*words, check=True)
    machine.until(lambda: answers(machine) == "1.1" and status(machine)["trial"] is None)
    assert machine.show("accrue-health", "Result")["Result"] == "success"


def test_an_update_that_does_not_start_is_taken_back_by_itself(
    image: tuple[Machine, dict[str, Path]],
) -> None:
    machine, later = image
    words = ("/usr/sbin/accrue-release", "install", str(later["1.2"]), "--trial", "--no-wait")
    machine.run(*words, check=True)
    machine.until(lambda: "release 1.2 cannot start" in machine.journal("accrue"))
    machine.until(lambda: answers(machine) == "1.1" and status(machine)["trial"] is None)
    machine.until(lambda: machine.show("accrue", "ActiveState")["ActiveState"] == "active")


def test_a_power_cut_while_on_trial_ends_with_a_release_that_answers(
    image: tuple[Machine, dict[str, Path]],
) -> None:
    """Three starts are what a release on trial has; then the one before is back."""
    machine, later = image
    words = ("/usr/sbin/accrue-release", "activate", later["1.2"].name, "--trial", "--no-wait")
    machine.run(*words)  # where it was removed, it is installed again
    if status(machine)["trial"] is None:
        install = ("install", str(later["1.2"]), "--trial", "--no-wait")
        machine.run("/usr/sbin/accrue-release", *install, check=True)
    machine.cut_power()
    machine.boot()
    machine.until(lambda: answers(machine) == "1.1")
    machine.until(lambda: status(machine)["trial"] is None)
