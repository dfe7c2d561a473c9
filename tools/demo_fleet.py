"""What `./tools/demo --fleet` shows: two devices, a broker and an owner on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from accrue.errors import AccrueError, NotFound
from accrue.service.box import Box
from accrue.service.settings import Settings
from accrue.vision.sources import labelled_images

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tools" / "samples"
FOLDER = Path(os.environ.get("ACCRUE_DEMO_FOLDER", ROOT / "build" / "demo-fleet"))
OWNER = FOLDER / "owner"
SHOTS = 5  # a class
DEADLINE_S = 60.0
console = Console(highlight=False)


def program(name: str) -> str:
    return str(Path(sys.prefix, "bin", name))


def shown_call(*words: str) -> str:
    """Runs one command as a person would, and shows it."""
    console.print(f"[bold]$ {Path(words[0]).name}[/] " + " ".join(words[3:]), soft_wrap=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if done.returncode:
        sys.exit(f"demo: {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def owner(*words: str) -> str:
    return shown_call(program("accrue-fleet"), "--fleet", str(OWNER), *words)


def quiet(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def join(name: str) -> None:
    """With files, as between machines without a network; `roster invite` does it with a code."""
    device = (program("accrue"), "--state", str(FOLDER / name), "fleet")
    request, ticket = FOLDER / f"{name}.json", FOLDER / f"{name}.ticket"
    request.write_text(quiet(*device, "identity", "--name", name, "--json"))
    quiet(
        program("accrue-fleet"), "--fleet", str(OWNER),
        "roster", "add", str(request), "--ticket", str(ticket),
    )  # fmt: skip
    shown_call(*device, "join", "--ticket", str(ticket))


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as into:
        process = subprocess.Popen(words, stdout=into, stderr=into, cwd=FOLDER)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def until(true: Callable[[], bool], what: str) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not true():
        if time.perf_counter() - began > DEADLINE_S:
            sys.exit(f"demo: {what} did not happen within {DEADLINE_S:.0f} s; see {FOLDER}")
        time.sleep(0.01)
    return time.perf_counter() - began


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def says(box: Box, photo: Path) -> str:
    answer = next(box.predict([(photo.name, photo)]))
    return f"{answer.verdict} {answer.label}".strip() if answer.label else answer.verdict


def knows(box: Box, name: str) -> bool:
    return any(row.name == name and row.shots for row in box.classes())


def digest(box: Box) -> str:
    return box.learned().state.digest()


def installed(name: str) -> int:
    status = quiet(program("accrue"), "--state", str(FOLDER / name), "fleet", "status", "--json")
    return int(json.loads(status)["installed"]["number"])


def teach(box: Box, name: str, folder: Path) -> None:
    paths = sorted(folder.iterdir())[:SHOTS]
    for receipt in box.teach(name, [(path.name, path) for path in paths]):
        if receipt.error:
            raise receipt.error


def main() -> None:
    mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(mosquitto).exists():
        raise NotFound("no Mosquitto on this machine", hint="apt-get install mosquitto")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    taught = labelled_images(SAMPLES / "teach")
    tests = labelled_images(SAMPLES / "test")
    shared, draft = "cable-gland", "caster-wheel"
    first = [name for name in taught if name not in (shared, draft)][:6]
    port = free_port()
    with ExitStack() as parts:
        console.print("\n[bold]The owner makes a fleet and a broker, and lets two devices in.[/]")
        owner("init", "demo")
        owner("broker", "--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", str(port),
              "--run-as", "root" if os.getuid() == 0 else "")  # fmt: skip
        configuration = str(OWNER / "broker" / "mosquitto.conf")
        parts.enter_context(running([mosquitto, "-c", configuration], FOLDER / "broker.log"))
        until(lambda: answers(port), "the start of the broker")
        for name in ("dock-1", "dock-2"):
            join(name)
        boxes = []
        for name in ("dock-1", "dock-2"):
            state = FOLDER / name
            words = [program("accrue"), "--state", str(state), "fleet", "sync", "--watch"]
            parts.enter_context(running(words, FOLDER / f"{name}.log"))
            settings = Settings(state=state, actor=f"operator@{name}")
            boxes.append(parts.enter_context(Box(settings)))
        one, two = boxes

        console.print("\n[bold]What one is taught, the other knows.[/]")
        for name in first:
            teach(one, name, SAMPLES / "teach" / name)
        until(lambda: all(knows(two, name) for name in first), "the first exchange")
        photo = tests[shared][0]
        console.print(f"dock-2, shown a {shared} before: {says(two, photo)}")
        teach(one, shared, SAMPLES / "teach" / shared)
        took = until(
            lambda: knows(two, shared) and says(two, photo).endswith(shared), "recognising it"
        )
        console.print(
            f"dock-1 is taught {shared}, {SHOTS} shots; dock-2 recognises it {took:.2f} s after "
            f"the last of them is on the disk: [green]{says(two, photo)}[/]"
        )
        same(one, two)

        console.print("\n[bold]The owner decides what goes live, and takes it back.[/]")
        owner("policy", "default", "curated")
        until(lambda: installed("dock-1") == installed("dock-2") == 1, "manifest 1")
        before = digest(two)
        teach(one, draft, SAMPLES / "teach" / draft)
        photo = tests[draft][0]
        console.print(f"dock-1 is taught {draft}: a draft that only dock-1 answers by")
        until(lambda: draft in proposed(), "the proposal")
        owner("propose")
        owner("approve", "1", "--remark", "good light")
        owner("publish")
        until(lambda: knows(two, draft), "the publication")
        console.print(f"dock-2, shown a {draft}: {says(two, photo)}")
        same(one, two)
        owner("rollback")
        until(lambda: not knows(two, draft) and not knows(one, draft), "the rollback")
        console.print(f"dock-2, shown a {draft}: {says(two, photo)}")
        same(one, two)
        if digest(two) != before:
            sys.exit("demo: after the rollback the digest is another one: this is a bug")
        console.print("[green]Bit for bit what it was before.[/]")
        owner("status")
    console.print(f"\nAll of it is in {os.path.relpath(FOLDER)}; how to do it: docs/fleet.md")


def proposed() -> str:
    return quiet(program("accrue-fleet"), "--fleet", str(OWNER), "propose", "--json")


def same(one: Box, two: Box) -> None:
    until(lambda: digest(one) == digest(two), "equal digests")
    console.print(f"digest of dock-1 and of dock-2:  {digest(one)[:32]}")


if __name__ == "__main__":
    try:
        main()
    except AccrueError as error:
        sys.exit(f"demo: {error}")
