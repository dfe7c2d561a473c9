"""`tools/provision ssh`: the same payload over SSH, for a device that runs already.

It looks at the device first, and refuses what is not for it before anything is copied. Then one
tar, put into place and installed there by `receive.py` and `accrue-release`: beside the release
that runs, on trial, and gone back from by itself where it is not healthy. A second run copies
nothing.
"""

from __future__ import annotations

import base64
import getpass
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from accrue import __version__
from accrue.board import Board, System, match
from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say
from accrue.device import Device, describe
from accrue.errors import AccrueError, Cancelled, Conflict, NotFound, Refused, UsageError
from accrue.sync.enrol import Enrolment
from provisioning.archive import write_tar
from provisioning.package import BundleName, SystemName, Version, Wheels, planned
from provisioning.payload import Plan, stage

AUTO = "auto"
RELEASE = "/usr/lib/accrue/accrue-release"
INCOMING = "/usr/lib/accrue/.incoming"
CREDENTIALS = "/etc/accrue/credentials"
RECEIVER = Path(__file__).with_name("receive.py")
CONNECT_S = 15
MARGIN_KIB = 64 << 10
FACTS = (
    *("etc/nv_tegra_release", "etc/os-release", "etc/nv_boot_control.conf"),
    *("proc/device-tree/compatible", "proc/device-tree/model", "proc/meminfo"),
)
_HOST = re.compile(r"[A-Za-z0-9_.-]+(@[A-Za-z0-9_.:\[\]-]+)?")
# Read and never written: it needs no root.
_PROBE = """
echo "machine $(uname -m)"
echo "python $(/usr/bin/python3 -I -c 'import platform; print(platform.python_version())' 2>&1)"
echo "user $(id -u)"
echo "host $(uname -n)"
echo "free $(df -Pk /usr/lib | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)"
for file in {files}; do
    if [ -r /$file ]; then echo "file $file $(base64 -w 0 < /$file)"; fi
done
if [ -x {release} ]; then echo "release $({release} status --json 2>/dev/null | base64 -w 0)"; fi
for one in /usr/lib/accrue/payload/*/payload.json; do
    if [ -r "$one" ]; then echo "carried $(basename "$(dirname "$one")")"; fi
done
"""


@dataclass(frozen=True)
class Found:
    """What a device says of itself.

    Attributes:
        device: as `accrue.device.describe` has it. host: its own name. root: logged in as root.
        free_kib: below /usr/lib. release: what `accrue-release status` says; None without it.
        carried: payloads that are there.
    """

    device: Device
    host: str
    root: bool
    free_kib: int
    release: dict[str, Any] | None
    carried: tuple[str, ...]

    @property
    def current(self) -> str:
        return str((self.release or {}).get("current") or "")


@dataclass
class Connection:
    """One SSH connection, used for every step.

    Attributes:
        host: as ssh takes it, as USER@HOST. options: of ssh.
        sudo: its password; None as long as it is not needed.
    """

    host: str
    options: Sequence[str]
    sudo: str | None = field(default=None, repr=False)
    root: bool = False

    def run(
        self, script: str, given: Path | bytes = b"", *, root: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a script of sh there; what it prints on stderr is shown as it comes.

        Args:
            given: what it reads from stdin. root: as root, by sudo where that is another.

        Raises:
            NotFound: the device is not reached.
        """
        command, first = f"sh -c {shlex.quote(script)}", b""
        if root and not self.root:
            if self.sudo is None:
                command = f"sudo -n -- {command}"
            else:
                command, first = f"sudo -S -k -p '' -- {command}", f"{self.sudo}\n".encode()
        with tempfile.TemporaryFile() as both, tempfile.TemporaryFile() as out:
            both.write(first)
            if isinstance(given, bytes):
                both.write(given)
            else:
                with given.open("rb") as file:
                    shutil.copyfileobj(file, both)
            both.seek(0)
            words = ["ssh", *self.options, "--", self.host, command]
            last = "the connection was lost"
            with subprocess.Popen(words, stdin=both, stdout=out, stderr=subprocess.PIPE) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    last = line.decode(errors="replace").strip() or last
                    note(f"{self.host}: {last}")
            out.seek(0)
            done = subprocess.CompletedProcess(words, process.returncode, out.read())
        if done.returncode == 255:
            raise self.lost(last)
        return done

    def open(self) -> None:
        """Connects; a password is asked for once. Raises NotFound."""
        with tempfile.TemporaryFile() as said:  # the connection stays, and would keep a pipe open
            done = subprocess.run(
                ["ssh", *self.options, "-M", "-N", "-f", "--", self.host],
                stdout=subprocess.DEVNULL,
                stderr=said,
                check=False,
            )
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if done.returncode != 0:
            raise self.lost((lines or ["nobody answers"])[-1])

    def close(self) -> None:
        words = ["ssh", *self.options, "-O", "exit", "--", self.host]
        subprocess.run(words, check=False, capture_output=True)

    def lost(self, why: str) -> NotFound:
        return NotFound(
            f"{self.host} is not reached: {why.strip()}",
            hint=f"try it by hand, and compare the fingerprint: ssh {self.host}",
            found=why.strip(),
        )


@contextmanager
def connected(host: str, port: int, key: Path | None, known_hosts: Path | None
) -> Iterator[Connection]:  # fmt: skip
    """Raises UsageError for what is no host, NotFound where this machine has no ssh."""
    if not _HOST.fullmatch(host) or host.startswith("-"):
        raise UsageError(f"{host[:80]!r} is no host", hint="for example: keeper@10.0.0.7")
    if shutil.which("ssh") is None:
        raise NotFound("ssh is missing here", hint="sudo apt-get install openssh-client")
    with tempfile.TemporaryDirectory(prefix="accrue-ssh-") as folder:
        options = ["-p", str(port), "-o", f"ConnectTimeout={CONNECT_S}", "-S", f"{folder}/c"]
        options += ["-o", "ServerAliveInterval=15"]
        if not sys.stdin.isatty():
            options += ["-o", "BatchMode=yes"]
        if key is not None:
            options += ["-i", str(key), "-o", "IdentitiesOnly=yes"]
        if known_hosts is not None:
            options += ["-o", f"UserKnownHostsFile={known_hosts}"]
        connection = Connection(host, options)
        connection.open()
        try:
            yield connection
        finally:
            connection.close()


def look(connection: Connection) -> Found:
    """Asks the device what it is. Raises NotFound, AccrueError."""
    script = _PROBE.format(files=" ".join(FACTS), release=RELEASE)
    done = connection.run(script)
    words: dict[str, str] = {}
    carried = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for line in done.stdout.decode(errors="replace").splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "file":
                name, _, data = rest.partition(" ")
                if name in FACTS:
                    path = root / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(data))
            elif kind == "carried":
                carried.append(rest)
            else:
                words[kind] = rest
        if done.returncode != 0 or not {"machine", "python", "user", "free"} <= words.keys():
            raise AccrueError(
                f"{connection.host} does not answer as a Linux with sh, df and base64",
                hint=f"try it by hand: ssh {connection.host} uname -a",
            )
        read = describe(
            root, search=(), ask_cuda=lambda: None, ask_smi=lambda: "", ask_providers=tuple
        )
    device = replace(read, machine=words["machine"], python=words["python"])
    try:
        release = json.loads(base64.b64decode(words["release"])) if "release" in words else None
    except ValueError:
        release = None
    connection.root = words["user"] == "0"
    free = int(words["free"]) if words["free"].isdigit() else 0
    host = words.get("host", connection.host)
    return Found(device, host, connection.root, free, release, tuple(carried))


def board_of(found: Found, wanted: str, *, any_board: bool) -> Board:
    """The board to install for: the one that the device is, or the one that was named.

    Raises:
        NotFound: it is none that is known. Refused: it is another than the one named.
    """
    seen = match(found.device)
    if wanted == AUTO:
        if seen.board is None:
            raise NotFound(
                f"{found.host}: {seen.by}", hint="name one: --board NAME, see device_configs"
            )
        return seen.board
    named = Board.load(Path(wanted) if "/" in wanted else wanted)
    if seen.board is not None and seen.board.name == named.name:
        return named
    # A board without modules of its own, as x86-cpu, is refused by what it computes with alone.
    is_known = seen.board is not None and bool(seen.board.identity.modules)
    if named.architecture != found.device.machine or (
        (named.identity.modules or is_known) and not any_board
    ):
        what = f"{seen.board.name} ({seen.by})" if seen.board else seen.by
        raise Refused(
            f"{found.host} is {what}; this is for {named.name}; nothing was copied",
            hint="leave --board out"
            if named.architecture != found.device.machine
            else "leave --board out, or say that it fits all the same: --any-board",
            found=what,
            expected=named.name,
        )
    return named


def system_of(found: Found, board: Board, wanted: str | None) -> System:
    """The system that runs there. Raises Refused where it is another than the one named."""
    runs = board.system_of(found.device)
    seen = f"L4T {found.device.l4t}" if found.device.l4t else found.device.os or "unknown"
    if runs is None:
        known = ", ".join(
            f"{s.name} (L4T {', '.join(s.l4t)})" if s.l4t else s.name for s in board.systems
        )
        raise Refused(
            f"{found.host} runs {seen}; {board.name} is known with {known}; nothing was copied",
            hint="bring the device to one of them",
            found=seen,
        )
    if wanted is not None and board.system(wanted) != runs:
        raise Refused(
            f"{found.host} runs {runs.name} ({seen}); this is for {board.system(wanted).name}; "
            "nothing was copied",
            hint=f"leave it out, or: --jetpack {runs.jetpack or runs.os}",
            found=runs.name,
        )
    python = ".".join(found.device.python.split(".")[:2])
    if python != runs.python:
        raise Refused(
            f"{found.host} has Python {found.device.python[:60]}; {runs.name} brings "
            f"{runs.python}; nothing was copied",
            hint="sudo apt-get install python3",
            found=python,
            expected=runs.python,
        )
    return runs


def require_root(connection: Connection, password_file: Path | None) -> None:
    """Sees to it that commands can be run as root there. Raises UsageError, Refused."""
    if connection.root:
        return
    if password_file is not None:
        from accrue.store.failures import translated
        from accrue.sync.identity import read_secret

        with translated(password_file):
            connection.sudo = read_secret(password_file.read_text, "password")
    elif connection.run("sudo -n true 2>/dev/null").returncode != 0:
        if not sys.stdin.isatty():
            raise UsageError(
                f"{connection.host} needs a password for sudo",
                hint="--sudo-password-file FILE, or run it in a terminal",
            )
        connection.sudo = getpass.getpass(f"sudo password on {connection.host}: ")
    if connection.run("true", root=True).returncode != 0:
        raise Refused(
            f"{connection.host} does not let this user become root by sudo",
            hint="is the password right, and the user in the group sudo?",
        )


def install(connection: Connection, found: Found, plan: Plan) -> tuple[str, bool]:
    """Copies and installs. Returns the id, and whether anything had to be copied.

    Raises:
        AccrueError: it was not installed; the device is as it was.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "stage/root"
        root.mkdir(parents=True)
        staged = stage(root, plan)
        if staged.id in found.carried and found.current == staged.id:
            return staged.id, False
        shutil.copyfile(RECEIVER, root.parent / "receive.py")
        packed = Path(scratch) / "payload.tar.gz"
        size = write_tar(root.parent, packed)
        needed = staged.bytes // 1024 + MARGIN_KIB
        if found.free_kib < needed:
            raise AccrueError(
                f"{found.host} has {found.free_kib >> 10} MiB free below /usr/lib; the payload "
                f"needs {needed >> 10}; nothing was copied",
                hint="make room there, and run it again",
            )
        note(f"copying {size / 1e6:.0f} MB ...")
        copied = connection.run(
            f"umask 022; rm -rf {INCOMING}; mkdir -p {INCOMING} && "
            f"tar -xzpf - --no-same-owner -C {INCOMING} || {{ rm -rf {INCOMING}; exit 1; }}",
            packed,
            root=True,
        )
    if copied.returncode != 0:
        raise AccrueError(
            f"the payload could not be copied to {found.host}; nothing was changed there",
            hint="what it said is above",
        )
    done = connection.run(
        f"/usr/bin/python3 -I {INCOMING}/receive.py {INCOMING} {shlex.quote(staged.id)}", root=True
    )
    if done.returncode != 0:
        raise AccrueError(
            f"{found.host} did not take {staged.id}; it runs what it ran before",
            hint="what it said is above",
        )
    return staged.id, True


def give_identity(connection: Connection, found: Found, file: Path) -> str:
    """Puts an enrolment in its place; the service takes it up when it starts. Returns its name.

    Raises:
        NotFound, FormatError: no enrolment. Conflict: the device has another one already.
    """
    enrolment = Enrolment.load(file)
    data = file.read_bytes()
    target = f"{CREDENTIALS}/enrolment"
    present = connection.run(f"cat {target} 2>/dev/null || true", root=True).stdout
    if present.strip() and present != data:
        raise Conflict(
            f"{found.host} has another identity already; nothing was changed",
            hint=f"to replace it, on the device: sudo rm {target}; accrue fleet leave --yes",
        )
    if present != data:
        done = connection.run(
            f"umask 077; mkdir -p {CREDENTIALS} && chmod 700 {CREDENTIALS} && "
            f"cat > {CREDENTIALS}/.new && sync && mv {CREDENTIALS}/.new {target}",
            data,
            root=True,
        )
        if done.returncode != 0:
            raise AccrueError(
                f"the identity could not be written on {found.host}", hint="what it said is above"
            )
        connection.run(
            "if [ -d /run/systemd/system ]; then systemctl try-restart accrue.service; fi",
            root=True,
        )
    return enrolment.name


def command(
    host: Annotated[str, typer.Argument(metavar="USER@HOST", help="As ssh takes it.")],
    board: Annotated[
        str, typer.Option("--board", metavar="NAME", help="Else what the device says it is.")
    ] = AUTO,
    system: SystemName = None,
    bundle: BundleName = "default",
    version: Version = __version__,
    wheels: Wheels = None,
    enrolment: Annotated[
        Path | None,
        typer.Option("--enrolment", metavar="FILE", help="Identity for this one device."),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Of SSH.")] = 22,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Private key for SSH.")
    ] = None,
    known_hosts: Annotated[
        Path | None,
        typer.Option("--known-hosts", metavar="FILE", help="Instead of ~/.ssh/known_hosts."),
    ] = None,
    sudo_password_file: Annotated[
        Path | None,
        typer.Option("--sudo-password-file", metavar="FILE", help="Else it is asked for."),
    ] = None,
    any_board: Annotated[
        bool, typer.Option("--any-board", help="Install although it is another board.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the release before, and nothing else.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Look at the device, change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Install on a device that runs already, over SSH; or go back to the version before."""
    with connected(host, port, key, known_hosts) as connection:
        found = look(connection)
        outcome: dict[str, Any] = {"host": found.host, "before": found.current or None}
        if rollback:
            _agree(yes, f"{found.host} goes back from {found.current or 'nothing'}")
            require_root(connection, sudo_password_file)
            if connection.run(f"{RELEASE} rollback", root=True).returncode != 0:
                raise AccrueError(
                    f"{found.host} did not go back; it runs {found.current or 'nothing'}",
                    hint="what it said is above",
                )
            after = look(connection)
            _tell({**outcome, "current": after.current or None}, as_json,
                  f"{found.host} runs {after.current} again")  # fmt: skip
            return
        chosen = board_of(found, board, any_board=any_board)
        runs = system_of(found, chosen, system)
        outcome |= {"board": chosen.name, "system": runs.name}
        note(f"{found.host}: {chosen.title}, {runs.name}, Python {found.device.python}")
        if check:
            line = f"{found.host} is {chosen.name}, and runs {found.current or 'no Accrue'}"
            _tell({**outcome, "current": found.current or None}, as_json, line)
            return
        if enrolment is not None:
            Enrolment.load(enrolment)
        _agree(yes, f"Accrue {version} is installed on {found.host}")
        require_root(connection, sudo_password_file)
        name = runs.jetpack or runs.os
        with planned(board if "/" in board else chosen.name, name, bundle, version, wheels) as plan:
            identifier, copied = install(connection, found, plan)
        outcome |= {"copied": copied}
        if enrolment is not None:
            outcome["enrolled"] = give_identity(connection, found, enrolment)
        after = look(connection)
    outcome["current"] = after.current or None
    if after.current != identifier:
        raise AccrueError(
            f"{found.host} did not stay with {identifier}; it runs {after.current or 'nothing'}",
            hint=f"why: ssh {host} sudo accrue-release status",
        )
    _tell(outcome, as_json, f"{found.host} runs {identifier}"
          + ("" if copied else "; nothing had to be copied"))  # fmt: skip
    if not as_json and enrolment is not None:
        note(f"it is {outcome['enrolled']} now, and joins its fleet by itself")


def _agree(yes: bool, what: str) -> None:
    """Asks. Raises Cancelled, UsageError."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: it is asked before anything is done", hint="add --yes")
    print(f"{what}. Type yes: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise Cancelled("nothing was done")


def _tell(outcome: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        emit(outcome)
    else:
        say(line)
