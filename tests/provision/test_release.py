"""accrue-release: side by side, on trial, back by itself, and a cut at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from release_world import RELEASE, Device, carried

from accrue.bundle import Bundle
from provisioning import accrue_release

OLD, NEW = "1.0", "2.0"
CUTS = int(os.environ.get("ACCRUE_CUTS", "16"))


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> dict[str, Path]:
    """Payload folders: old, new (its state is of a newer format), and one that does not work."""
    base = tmp_path_factory.mktemp("payloads")
    stores = {"state.db": 4, "unknown.db": 1, "access.db": 1}
    return {
        "old": carried(base / "old", tiny_bundle, OLD, stores=stores)[0],
        "new": carried(base / "new", tiny_bundle, NEW, stores={**stores, "state.db": 5})[0],
        "broken": carried(base / "broken", tiny_bundle, "3.0", works=False)[0],
    }


@pytest.fixture(scope="module")
def space(tiny_bundle: Path) -> str:
    return Bundle.open(tiny_bundle).manifest.space_id


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, payloads: dict[str, Path], space: str) -> Path:
    """A device where old is current, new is installed too, and 7 shots were taught; copy it."""
    device = Device(tmp_path_factory.mktemp("both") / "root")
    device.do("install", str(payloads["old"]))
    device.do("install", str(payloads["new"]))
    device.teach(7, version=4, space=space)
    return device.root


@pytest.fixture
def device(both: Path, tmp_path: Path) -> Device:
    return copied(both, tmp_path / "root")


def copied(source: Path, target: Path) -> Device:
    """The same device elsewhere. Its environments lead to where they were made, which is the same
    content and is not changed."""
    shutil.copytree(source, target, symlinks=True)
    device = Device.__new__(Device)
    device.root, device.opt = target, target / "opt/accrue"
    device.state, device.payloads = target / "var/lib/accrue", target / "usr/lib/accrue/payload"
    return device


def ids(device: Device) -> tuple[str, str]:
    """Of old and new."""
    found = {name.split("-")[0]: name for name in device.status()["installed"]}
    return found[OLD], found[NEW]


# --- the way forward ------------------------------------------------------------------------------


def test_the_first_release_is_current_at_once_and_a_second_install_changes_nothing(
    payloads: dict[str, Path], tmp_path: Path
) -> None:
    device = Device(tmp_path / "root")
    device.do("install", str(payloads["old"]))
    assert device.runs() == OLD
    before = sorted(str(path) for path in device.opt.rglob("*"))
    said = device.do("install", str(payloads["old"]), "--trial")
    assert "is installed already" in said
    assert device.status()["trial"] is None
    assert sorted(str(path) for path in device.opt.rglob("*")) == before


def test_a_root_that_is_named_from_here_is_as_good_as_a_whole_path(
    payloads: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    device = Device(Path("root"))
    device.do("install", str(payloads["old"]))
    assert device.runs() == OLD
    assert (device.opt / "current").resolve().is_relative_to(tmp_path.resolve())


def test_a_program_that_fails_is_told_with_its_error_and_not_with_its_hint() -> None:
    text = "import sys; sys.exit('accrue: no bundle at x\\n  give another')"
    words = [sys.executable, "-c", text]
    with pytest.raises(accrue_release.Problem, match="no bundle at x"):
        accrue_release._run(words, hint="")


def test_a_release_has_its_bundle_its_board_and_the_packages_of_the_payload_alone(
    both: Path,
) -> None:
    release = (both / "opt/accrue/current").resolve()
    assert (release / "bundle/manifest.json").is_file()
    assert (release / "board.yaml").is_file()
    site = next((release / "venv/lib").glob("python*")) / "site-packages"
    assert {path.name for path in site.glob("*.dist-info")} == {f"accrue-{OLD}.dist-info"}
    assert "include-system-site-packages = true" in (release / "venv/pyvenv.cfg").read_text()


def test_a_healthy_release_on_trial_stays_and_the_one_before_can_be_gone_back_to(
    device: Device, healthy: None
) -> None:
    old, new = ids(device)
    device.do("activate", new, "--trial", "--no-wait")
    assert device.status()["trial"] == {"from": old, "to": new, "tries": 0, "other_space": False}
    device.do("health", "--wait", "20")
    assert device.status()["trial"] is None
    assert device.runs() == NEW
    assert device.status()["previous"] == old
    device.do("rollback")
    assert device.runs() == OLD
    code, said = device.refused("rollback")
    assert (code, "there is no release before" in said) == (3, True)


def test_a_release_that_never_answers_is_gone_back_from_and_status_says_why(
    device: Device,
) -> None:
    old, new = ids(device)
    device.do("activate", new, "--trial", "--no-wait")
    code, said = device.refused("health", "--wait", "1")
    assert code == 1
    assert f"{old} is the current release again: not healthy within 1 s" in said
    assert device.runs() == OLD
    last = device.status()["last"]
    assert (last["id"], last["outcome"]) == (new, "rolled back")


def test_a_release_that_answers_not_ready_is_told_with_its_reason(
    device: Device, server: ThreadingHTTPServer
) -> None:
    server.reason = "the encoder is not open"  # type: ignore[attr-defined]
    device.do("activate", ids(device)[1], "--trial", "--no-wait")
    say_where(device, server)
    _, said = device.refused("health", "--wait", "2")
    assert "not healthy within 2 s: the encoder is not open" in said


def test_a_release_that_replaces_one_on_trial_goes_back_to_the_last_that_was_kept(
    device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    old, new = ids(device)
    device.do("activate", new, "--trial", "--no-wait")
    code, said = device.refused("activate", old, "--trial")
    assert (code, "is what it goes back to" in said) == (5, True)
    third = carried(tmp_path / "third", tiny_bundle, "2.1", stores={"state.db": 5})[0]
    device.do("install", str(third), "--trial", "--no-wait")
    assert device.status()["trial"]["from"] == old
    device.do("rollback")
    assert device.runs() == OLD


def test_without_a_trial_health_only_says_whether_the_service_is_well(
    device: Device, server: ThreadingHTTPServer
) -> None:
    """What an image's own commit asks, as Mender's or RAUC's."""
    before = device.status()
    say_where(device, server)
    assert "it is well" in device.do("health", "--wait", "20")
    server.reason = "the encoder is not open"  # type: ignore[attr-defined]
    code, said = device.refused("health", "--wait", "1")
    assert (code, "the encoder is not open" in said) == (1, True)
    assert device.status() == before


def test_a_device_that_is_started_again_and_again_goes_back(device: Device) -> None:
    old, new = ids(device)
    device.do("activate", new, "--trial", "--no-wait")
    for start in (1, 2, 3):
        device.do("boot")
        assert device.status()["trial"]["tries"] == start
        assert device.runs() == NEW
    device.do("boot")
    assert device.status()["current"] == old
    assert "started 3 times" in device.status()["last"]["why"]


def test_old_releases_go_once_a_new_one_stays(
    device: Device, tiny_bundle: Path, tmp_path: Path, healthy: None
) -> None:
    old, new = ids(device)
    device.do("activate", new)
    third = carried(tmp_path / "third", tiny_bundle, "2.1", stores={"state.db": 5})[0]
    device.do("install", str(third), "--trial", "--no-wait")
    device.do("health", "--wait", "20")
    assert device.runs() == "2.1"
    assert set(device.status()["installed"]) == {new, third.name}
    assert not (device.opt / "releases" / old).exists()


# --- what was taught ------------------------------------------------------------------------------


def test_going_back_from_a_newer_format_brings_back_what_was_taught_before_it(
    device: Device,
) -> None:
    new = ids(device)[1]
    device.do("activate", new, "--trial", "--no-wait")
    device.migrate(5, rows=1)
    said = device.do("rollback")
    assert device.taught() == (4, 7)
    assert "state.db does not fit release" in said
    device.do("activate", new)  # and forward again: what was taught meanwhile is still kept
    assert any(path.name.startswith("state.v5.") for path in (device.state / "kept").iterdir())


def test_going_back_keeps_what_was_taught_on_trial_where_the_format_is_the_same(
    device: Device,
) -> None:
    device.do("activate", ids(device)[1], "--trial", "--no-wait")
    device.migrate(4, rows=2)
    device.do("rollback")
    assert device.taught() == (4, 9)


def test_another_embedding_space_is_refused_unless_said_so_and_comes_back_whole(
    device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = carried(
        tmp_path / "other", tiny_bundle, "9.0", space_id="f" * 64, stores={"state.db": 4}
    )[0]
    code, said = device.refused("install", str(other), "--trial")
    assert code == 6
    assert "has the encoder of space ffffffffffff" in said
    assert "--other-space" in said
    device.do("install", str(other), "--trial", "--no-wait", "--other-space")
    assert device.runs() == "9.0"
    assert not (device.state / "state.db").exists()
    device.do("rollback")
    assert device.runs() == OLD
    assert device.taught() == (4, 7)


# --- bad input: one line, nothing half done -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"machine": "riscv64"}, "(processor)"),
        ({"python": "3.9"}, "is for Python 3.9, this device has 3."),
        ({"glibc": "9.99"}, "glibc 9.99 or newer"),
        ({"l4t": ["36.4"]}, "is for L4T 36.4, this device has L4T none (JetPack)"),
        ({"modules": ["p3767-0005"]}, "this device has nvidia,p3701-0005, nvidia,tegra234"),
        ({"format": 2}, "is of format 2; this accrue-release reads format 1"),
        ({"stores": 3}, "stores is 3; expected a dict"),
    ],
)
def test_a_payload_for_another_device_is_refused_in_one_line(
    device: Device, payloads: dict[str, Path], tmp_path: Path, changes: dict, line: str
) -> None:
    tree = device.root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3701-0005\0nvidia,tegra234\0")
    payload = tmp_path / "payload"
    shutil.copytree(payloads["new"], payload)
    document = json.loads((payload / "payload.json").read_text())
    (payload / "payload.json").write_text(json.dumps({**document, "id": "other", **changes}))
    before = snapshot(device)
    _, said = device.refused("install", str(payload))
    assert line in said
    assert snapshot(device) == before


def test_a_board_is_known_by_its_module_and_can_be_insisted_on(
    device: Device, payloads: dict[str, Path], tmp_path: Path
) -> None:
    payload = tmp_path / "payload"
    shutil.copytree(payloads["new"], payload)
    document = json.loads((payload / "payload.json").read_text())
    changes = {"id": "orin", "modules": ["p3767-0005"]}
    (payload / "payload.json").write_text(json.dumps({**document, **changes}))
    tree = device.root / "proc/device-tree"
    tree.mkdir(parents=True)
    assert device.refused("install", str(payload))[0] == 6
    device.do("install", str(payload), "--any-board")
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0")
    device.do("install", str(payload))


def test_a_wheel_that_is_cut_short_is_found_before_anything_is_installed(
    payloads: dict[str, Path], tmp_path: Path
) -> None:
    payload = tmp_path / "payload"
    shutil.copytree(payloads["old"], payload)
    wheel = next((payload / "wheels").glob("accrue-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-100])
    device = Device(tmp_path / "root")
    _, said = device.refused("install", str(payload))
    assert f"{wheel} is not what payload" in said
    assert "copy the payload again" in said
    assert device.status()["installed"] == []


def test_an_encoder_that_fails_its_golden_images_is_not_installed(
    device: Device, payloads: dict[str, Path]
) -> None:
    before = snapshot(device)
    _, said = device.refused("install", str(payloads["broken"]), "--trial")
    assert "the golden images disagree (least cosine 0.31)" in said
    assert snapshot(device) == before


def test_too_little_room_is_said_before_anything_is_written(
    payloads: dict[str, Path], tmp_path: Path
) -> None:
    payload = tmp_path / "payload"
    shutil.copytree(payloads["old"], payload)
    document = json.loads((payload / "payload.json").read_text())
    (payload / "payload.json").write_text(json.dumps({**document, "installed_bytes": 2**60}))
    device = Device(tmp_path / "root")
    _, said = device.refused("install", str(payload))
    assert "no room to install" in said
    assert "nothing was changed" in said
    assert not (device.opt / "releases").exists()


@pytest.mark.parametrize("size", ["4k", "40k", "100k"])  # in the environment, the bundle ...
def test_a_disk_that_gets_full_in_the_midst_leaves_nothing_half_installed(
    device: Device, tiny_bundle: Path, tmp_path: Path, size: str
) -> None:
    """On a real small file system, in a mount namespace of its own."""
    other = carried(tmp_path / "other", tiny_bundle, "4.0", installed_bytes=0)[0]
    releases, left = device.opt / "releases", tmp_path / "left.txt"
    script = (
        f"mount -t tmpfs -o size={size} tmpfs {releases} && "
        f'{{ "$@"; code=$?; ls -A {releases} >{left}; exit $code; }}'
    )
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts in a user namespace here (sysctl kernel.unprivileged_userns_clone)")
    done = subprocess.run(
        [*words, *device.command("install", str(other), "--trial")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no space left on the disk" in done.stderr.lower(), done.stderr
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert left.read_text() == ""
    assert device.runs() == OLD


def test_a_second_run_at_the_same_time_is_told_to_wait(
    device: Device, payloads: dict[str, Path]
) -> None:
    import fcntl

    with (device.opt / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, said = device.refused("install", str(payloads["new"]))
    assert (code, "another accrue-release is at work" in said) == (5, True)


def test_what_is_not_there_is_named(device: Device) -> None:
    code, said = device.refused("activate", "4.0-none")
    assert (code, "no release 4.0-none is installed" in said) == (3, True)
    assert device.refused("activate", "../../etc")[0] == 3
    assert device.refused("commit")[0] == 5
    assert device.refused("install", str(device.root))[0] == 3


# --- cuts -----------------------------------------------------------------------------------------


def settled(device: Device) -> str:
    """Starts the device after a cut. It must run the old or the new release, with what was taught
    in a format that this release reads. Returns the version."""
    done = device.call("boot")
    assert done.returncode == 0, done.stderr
    now = device.runs()
    release = json.loads((device.opt / "current/release.json").read_text())
    version, rows = device.taught()
    assert version <= release["stores"]["state.db"]
    assert rows >= 7
    assert now == release["version"]
    return now


def each_step(device: Device, tmp_path: Path, *words: str) -> Iterator[Device]:
    """A copy of the device for each change of a file that the call makes, cut right before it."""
    for step in range(1, 200):
        copy = copied(device.root, tmp_path / f"step-{step}")
        done = copy.call(*words, step=step)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            assert step > 3, "it made no changes"
            return
        yield copy
        shutil.rmtree(copy.root)
    raise AssertionError("it never ended")


def test_a_cut_at_any_step_of_an_update_leaves_the_old_or_the_new(
    device: Device, tmp_path: Path
) -> None:
    new = ids(device)[1]
    found = set()
    for cut in each_step(device, tmp_path, "activate", new, "--trial", "--no-wait"):
        found.add(settled(cut))
        assert cut.taught() == (4, 7)
    assert found == {OLD}  # the last change is the exchange of the link
    device.do("activate", new, "--trial", "--no-wait")
    assert settled(device) == NEW


def test_a_cut_at_any_step_of_going_back_ends_in_the_old_with_its_format(
    device: Device, tmp_path: Path
) -> None:
    device.do("activate", ids(device)[1], "--trial", "--no-wait")
    device.migrate(5, rows=1)
    found = set()
    for cut in each_step(device, tmp_path, "rollback"):
        now = settled(cut)
        found.add(now)
        assert cut.taught() == ((4, 7) if now == OLD else (5, 8))
        if now == NEW:
            cut.do("rollback")
            assert cut.taught() == (4, 7)
    assert found == {OLD, NEW}


def test_a_cut_at_any_step_of_keeping_a_release_ends_in_it(
    device: Device, tmp_path: Path, healthy: None
) -> None:
    device.do("activate", ids(device)[1], "--trial", "--no-wait")
    for cut in each_step(device, tmp_path, "commit"):
        assert settled(cut) == NEW


def test_a_cut_at_any_step_of_the_start_after_a_cut_changes_nothing(
    device: Device, tmp_path: Path
) -> None:
    device.do("activate", ids(device)[1], "--trial", "--no-wait")
    trial = json.loads((device.opt / "trial.json").read_text())
    (device.opt / "trial.json").write_text(json.dumps({**trial, "tries": 3}))
    for cut in each_step(device, tmp_path, "boot"):
        assert settled(cut) in (OLD, NEW)


@pytest.mark.slow
@pytest.mark.timeout(1200 + 20 * CUTS)
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_the_power_is_cut_at_random_moments_of_an_install(
    payloads: dict[str, Path], space: str, tmp_path: Path, before: str
) -> None:
    """All processes are killed: half of the moments in a first install, half in an update."""
    first = Device(tmp_path / "first")
    if before == "old":
        first.do("install", str(payloads["old"]))
        first.teach(7, version=4, space=space)
    payload = first.payloads / payloads["new"].name
    shutil.copytree(payloads["new"], payload)
    words = ("install", str(payload), "--trial", "--no-wait")
    trial = copied(first.root, tmp_path / "trial")
    started = time.monotonic()
    trial.do(*words)
    took = time.monotonic() - started
    moments = random.Random(7 if not os.environ.get("ACCRUE_RANDOM") else None)
    found = []
    for number in range(CUTS // 2):
        device = copied(first.root, tmp_path / f"cut-{number}")
        words = ("install", str(device.payloads / payload.name), "--trial", "--no-wait")
        at = moments.uniform(0, took)
        with subprocess.Popen(
            device.command(*words), start_new_session=True, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(at)
            os.killpg(process.pid, signal.SIGKILL)
        if before == "nothing":
            device.do("boot")  # installs what was carried
            assert device.runs() == NEW
        else:
            found.append(settled(device))
            assert OLD in [name.split("-")[0] for name in device.status()["installed"]]
            if number % 5 == 0:
                device.do(*words)  # the second run
                assert device.runs() == NEW
                assert len(device.status()["installed"]) == 2
        shutil.rmtree(device.root)
    assert before == "nothing" or OLD in found


def test_at_the_first_start_the_payload_of_the_image_is_installed(
    payloads: dict[str, Path], tmp_path: Path
) -> None:
    device = Device(tmp_path / "root")
    code, said = device.refused("boot")
    assert (code, "no release is installed and no payload was brought along" in said) == (3, True)
    shutil.copytree(payloads["old"], device.payloads / payloads["old"].name)
    device.do("boot")
    assert device.runs() == OLD


def test_a_link_that_leads_nowhere_and_a_trial_that_cannot_be_read_are_put_right(
    device: Device,
) -> None:
    (device.opt / "current").unlink()
    (device.opt / "current").symlink_to("releases/gone")
    (device.opt / "trial.json").write_text("{")
    device.do("boot")
    assert device.runs() in (OLD, NEW)
    assert device.status()["trial"] is None
    assert any(path.name.startswith("trial.unreadable.") for path in device.opt.iterdir())


# --- the other slot of the root file system -------------------------------------------------------


def test_a_slot_with_a_newer_release_and_the_fall_back_from_it_keep_what_was_taught(
    payloads: dict[str, Path], space: str, tmp_path: Path
) -> None:
    """As Mender, RAUC and NVIDIA's own A/B do it: two root file systems, one /var/lib/accrue."""
    slots = {}
    for name in ("old", "new"):
        slots[name] = Device(tmp_path / name)
        shutil.copytree(payloads[name], slots[name].payloads / payloads[name].name)
    shared = slots["old"].state
    slots["new"].state.rmdir()
    slots["new"].state.symlink_to(shared)

    slots["old"].do("boot")
    slots["old"].teach(7, version=4, space=space)
    slots["new"].do("boot")  # the first start of the new slot
    assert slots["new"].runs() == NEW
    slots["new"].migrate(5, rows=1)
    slots["old"].do("boot")  # the boot loader went back
    assert slots["old"].runs() == OLD
    assert slots["old"].taught() == (4, 7)
    slots["new"].do("boot")  # and forward again
    assert slots["new"].taught()[1] == 7


def test_a_release_of_another_python_gives_way_to_the_one_that_the_system_brings(
    device: Device, payloads: dict[str, Path]
) -> None:
    """After an upgrade of the distribution, or where two slots share /opt."""
    for folder in (device.opt / "releases").iterdir():
        release = json.loads((folder / "release.json").read_text())
        (folder / "release.json").write_text(json.dumps({**release, "python": "3.9"}))
    assert "was installed for Python 3.9" in device.status()["problems"][0]
    code, said = device.refused("boot")
    assert code == 3
    assert "was installed for Python 3.9, and this system has 3." in said
    shutil.rmtree(device.opt / "releases" / payloads["new"].name)
    shutil.copytree(payloads["new"], device.payloads / payloads["new"].name)
    device.do("boot")
    assert device.runs() == NEW
    assert device.taught() == (4, 7)


# --- the end --------------------------------------------------------------------------------------


def test_removing_leaves_what_was_taught_and_nothing_else(device: Device) -> None:
    device.do("remove")
    assert not device.opt.exists()
    assert device.taught() == (4, 7)


def test_it_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    import sys

    listed = RELEASE.read_text()
    modules = {
        line.split()[1].split(".")[0]
        for line in listed.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert modules <= sys.stdlib_module_names
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(RELEASE), "--root", str(tmp_path), "status", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["current"] is None


# --- a service ------------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        reason = self.server.reason  # type: ignore[attr-defined]
        body = json.dumps({"ok": not reason, "reason": reason}).encode()
        self.send_response(503 if reason else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Answers /readyz; with `reason`, why not."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.reason = ""  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def say_where(device: Device, server: ThreadingHTTPServer) -> None:
    url = f"http://device.local:{server.server_port}"
    (device.state / "run.json").write_text(json.dumps({"url": url, "loopback": False}))


@pytest.fixture
def healthy(device: Device, server: ThreadingHTTPServer) -> None:
    say_where(device, server)


def snapshot(device: Device) -> list[tuple[str, bytes]]:
    """Every file and link outside of the environments."""
    return [
        (str(path), str(path.readlink()).encode() if path.is_symlink() else path.read_bytes())
        for path in sorted(device.root.rglob("*"))
        if (path.is_file() or path.is_symlink()) and "venv" not in path.parts
    ]
