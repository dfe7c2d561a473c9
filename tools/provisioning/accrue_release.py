#!/usr/bin/python3 -I
"""Installs releases of Accrue side by side, and goes from one to another so that a power cut at any
moment leaves the old one or the new one.

On a device this file is /usr/lib/accrue/accrue-release. It needs Python 3.10 and nothing else: it
has to work where no environment is installed yet, or a broken one.

    /usr/lib/accrue/payload/ID/     what a package, an overlay or SSH brought: wheels, bundle, lists
    /opt/accrue/releases/ID/        an installed release; release.json is written last, so without
                                    it there is no release
    /opt/accrue/current             -> releases/ID, exchanged by one rename
    /opt/accrue/previous            -> releases/ID that `rollback` goes back to
    /opt/accrue/trial.json          the current release is on trial: {"from", "to", "tries"}
    /var/lib/accrue                 what was taught; releases come and go, this stays

Every change is one rename, and what a cut leaves before or after it `boot` understands.
docs/updates.md tells the whole story.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

FORMAT = 1
SERVICE = "accrue.service"
SERVICE_USER = "accrue"
MOST_TRIES = 3  # starts of a device on a release that never became healthy
HEALTH_S = 180.0
HEALTHY_FOR_S = 5.0  # a service that answers and dies is not well
MARGIN_BYTES = 64 << 20
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,127}")
_CHUNK_BYTES = 1 << 20


class Problem(Exception):
    """One line for the operator. Exit codes as those of `accrue`."""

    def __init__(self, message: str, hint: str = "", *, code: int = 1) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


USAGE, NOT_FOUND, CONFLICT, REFUSED = 2, 3, 5, 6


def say(text: str) -> None:
    print(f"accrue-release: {text}", file=sys.stderr, flush=True)


# --- files ----------------------------------------------------------------------------------------


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Old or new, never half: a file of another name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def write_json(path: Path, document: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """None where it is absent, unreadable or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def point(link: Path, target: str) -> None:
    """Makes `link` lead to `target`, by one rename."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    fsync_folder(link.parent)


def gone(path: Path) -> None:
    """Removes a file and sees to it that it stays removed."""
    if path.is_symlink() or path.exists():
        path.unlink()
        fsync_folder(path.parent)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# --- what there is --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Payload:
    """What is to be installed, as its payload.json says. `Payload.read` checks the form of it."""

    folder: Path
    document: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["id"])

    def __getattr__(self, name: str) -> Any:
        return self.document[name]

    @classmethod
    def read(cls, folder: Path) -> Payload:
        path = folder / "payload.json"
        if not path.is_file():
            raise Problem(
                f"no payload in {folder}: payload.json is missing",
                "name the unpacked one; a package and ./tools/provision ssh bring their own",
                code=NOT_FOUND,
            )
        document = read_json(path)
        if document is None:
            raise Problem(f"{path} cannot be read as JSON", "copy the payload again")
        if document.get("format") != FORMAT:
            raise Problem(
                f"{path} is of format {document.get('format')}; this accrue-release reads format "
                f"{FORMAT}",
                "use the accrue-release that came with the payload",
            )
        expected = {
            **{"id": str, "version": str, "board": str, "machine": str, "python": str},
            **{"space_id": str, "installed_bytes": int, "files": dict, "stores": dict},
            **{"glibc": str, "l4t": list, "modules": list, "compatible": list},
        }
        for key, kind in expected.items():
            if not isinstance(document.get(key), kind):
                raise Problem(
                    f"{path}: {key} is {document.get(key)!r}; expected a {kind.__name__}",
                    "make the payload again",
                )
        if not _ID.fullmatch(document["id"]):
            raise Problem(f"{path}: {document['id']!r} is no id", "make the payload again")
        return cls(folder, document)

    def verify(self) -> None:
        """Every listed file is there and as listed; nothing is listed that lies elsewhere."""
        for name, entry in self.document["files"].items():
            path = self.folder / name
            if name.startswith("/") or ".." in Path(name).parts:
                raise Problem(f"{self.folder}: the list names {name!r}", "make the payload again")
            if not path.is_file():
                raise Problem(f"{path} is missing; payload {self.id} lists it", _AGAIN)
            if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
                raise Problem(f"{path} is not what payload {self.id} lists", _AGAIN)


_AGAIN = "copy the payload again: sudo dpkg --install the package, or apply the overlay again"


class Layout:
    """Where everything is, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opt = root / "opt/accrue"
        self.releases = self.opt / "releases"
        self.current = self.opt / "current"
        self.previous = self.opt / "previous"
        self.trial = self.opt / "trial.json"
        self.payloads = root / "usr/lib/accrue/payload"
        self.state = root / "var/lib/accrue"
        self.kept = self.state / "kept"

    def release(self, identifier: str) -> dict[str, Any] | None:
        """release.json of an installed release; None where there is none of that id."""
        if not _ID.fullmatch(identifier):
            return None
        return read_json(self.releases / identifier / "release.json")

    def led_to(self, link: Path) -> str:
        """Id of the installed release that `link` leads to; "" where it leads to none."""
        try:
            identifier = link.readlink().name
        except OSError:
            return ""
        return identifier if self.release(identifier) is not None else ""

    def installed(self) -> list[str]:
        """Ids of installed releases, the one that was installed last first."""
        if not self.releases.is_dir():
            return []
        found = [folder.name for folder in self.releases.iterdir() if self.release(folder.name)]
        return sorted(found, key=lambda i: (self.release(i) or {}).get("at", 0), reverse=True)

    def on_trial(self) -> dict[str, Any] | None:
        found = read_json(self.trial)
        if found is None or not {"from", "to", "tries"} <= found.keys():
            return None
        return found

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """One at a time. Raises Problem where another is at it."""
        try:
            self.opt.mkdir(parents=True, exist_ok=True)
            file = (self.opt / ".lock").open("w")
        except PermissionError:
            raise Problem(f"{self.opt} cannot be written", f"sudo {_typed()}", code=4) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Problem(
                    "another accrue-release is at work", "wait for it to end, then again", code=5
                ) from None
            yield


def _typed() -> str:
    return " ".join(["accrue-release", *sys.argv[1:]])


# --- the service ----------------------------------------------------------------------------------


class Service:
    """The running device, where systemd runs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.managed = root == Path("/") and Path("/run/systemd/system").is_dir()

    def control(self, *words: str) -> bool:
        if not self.managed:
            return True
        done = subprocess.run(["systemctl", *words], check=False, stdin=subprocess.DEVNULL)
        return done.returncode == 0

    def stop(self) -> None:
        self.control("stop", SERVICE)

    def start(self) -> None:
        self.control("reset-failed", SERVICE)
        self.control("restart", "--no-block", SERVICE)

    def ready(self, layout: Layout) -> str:
        """ "" where /readyz says so; else why not."""
        place = read_json(layout.state / "run.json")
        url = (place or {}).get("url")
        found = re.match(r"(https?)://.*?:(\d+)/?$", url) if isinstance(url, str) else None
        if not isinstance(url, str) or not found:
            return "the service has not said yet where it listens"
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE  # our own, on this machine
        reason = ""
        for base in (f"{found[1]}://127.0.0.1:{found[2]}", url.rstrip("/")):
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
            )
            try:
                with opener.open(f"{base}/readyz", timeout=10) as reply:
                    reply.read(4096)
                    return ""
            except urllib.error.HTTPError as error:
                try:
                    reason = str(json.loads(error.read(4096)).get("reason", ""))
                except (ValueError, OSError, AttributeError):
                    reason = ""
                return reason or f"/readyz answers {error.code}"
            except (OSError, ValueError) as error:
                reason = reason or f"{base} does not answer ({error})"
        return reason


# --- what was taught ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Database:
    """What a database of the state says of itself, without Accrue's code.

    Attributes:
        version: of its schema. space_id: that it was taught in; "" where it has none.
    """

    version: int
    space_id: str

    @classmethod
    def look(cls, path: Path) -> Database | None:
        """None where there is none, or nothing in it."""
        if not path.is_file() or path.stat().st_size == 0:
            return None
        try:
            with closing(_connected(path)) as db:
                version = int(db.execute("PRAGMA user_version").fetchone()[0])
                space = ""
                with suppress(sqlite3.OperationalError):
                    row = db.execute("SELECT space_id FROM meta").fetchone()
                    space = str(row[0]) if row else ""
        except sqlite3.Error as error:
            raise Problem(f"{path} cannot be read: {error}", "restore a backup of it") from None
        return cls(version, space) if version else None

    def fits(self, release: dict[str, Any], name: str) -> bool:
        known = release["stores"].get(name)
        if known is None:
            return True
        same = name != "state.db" or self.space_id in ("", release["space_id"])
        return bool(same and self.version <= known)


def _connected(path: Path) -> sqlite3.Connection:
    """SQLite gives what it makes beside the file to the owner of the file, also as root."""
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def keep_copy(layout: Layout, name: str, at: Database) -> Path:
    """A whole copy of a database in `kept`, durable before this returns."""
    source = layout.state / name
    owner = source.stat()
    layout.kept.mkdir(mode=0o700, exist_ok=True)
    os.chown(layout.kept, owner.st_uid, owner.st_gid)
    stem = f"{Path(name).stem}.v{at.version}.{at.space_id[:12] or 'none'}"
    target = layout.kept / f"{stem}.{time.time_ns()}.db"
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    with closing(_connected(source)) as taught, closing(_connected(temporary)) as copy:
        taught.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    os.chown(temporary, owner.st_uid, owner.st_gid)
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    fsync_folder(layout.kept)
    return target


def before_use(layout: Layout, release: dict[str, Any]) -> None:
    """Keeps a copy of what `release` would bring to a newer format, for the way back."""
    for name, known in release["stores"].items():
        found = Database.look(layout.state / name)
        if found and found.version < known:
            path = keep_copy(layout, name, found)
            say(f"{name} is of format {found.version}, the new release writes {known}; kept {path}")


def fit_state(
    layout: Layout, release: dict[str, Any], *, afresh: bool = False, bring_back: bool = False
) -> None:
    """Sees to it that `release` can read what was taught: where it is of a newer format or another
    embedding space, it is kept, and the newest kept one that fits takes its place. Called again
    after a cut, it goes on.

    Args:
        afresh: where none fits, begin with nothing taught (the operator said so).
        bring_back: a kept one also takes the place of none.
    """
    for name in release["stores"]:
        path = layout.state / name
        found = Database.look(path)
        if found.fits(release, name) if found else not bring_back:
            continue
        fitting = next(
            (
                copy
                for copy in _kept(layout, name)
                for at in [Database.look(copy)]
                if at and at.fits(release, name)
            ),
            None,
        )
        if fitting is None and not (afresh or name == "unknown.db"):
            if found:
                say(f"{path} does not fit release {release['id']}, and no kept copy does; left")
            continue
        if found:
            kept = keep_copy(layout, name, found)
            say(f"{path} does not fit release {release['id']}; kept {kept}")
            with closing(_connected(path)) as db:  # so that no -wal outlives what it belongs to
                db.execute("PRAGMA journal_mode = DELETE")
        if fitting is None:
            gone(path)
            continue
        owner = fitting.stat()
        temporary = path.with_name(f".{name}.tmp")
        shutil.copyfile(fitting, temporary)
        os.chown(temporary, owner.st_uid, owner.st_gid)
        temporary.chmod(0o600)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(layout.state)
        say(f"{path} is the one kept as {fitting.name} again")


def _kept(layout: Layout, name: str) -> list[Path]:
    """Newest first."""
    found = layout.kept.glob(f"{Path(name).stem}.v*.db") if layout.kept.is_dir() else ()
    return sorted(found, key=lambda path: int(path.name.split(".")[-2]), reverse=True)


def prune_kept(layout: Layout) -> None:
    """Of each database, format and space the two newest copies stay."""
    seen: dict[str, int] = {}
    for name in ("state.db", "unknown.db", "access.db"):
        for path in _kept(layout, name):
            kind = path.name.rsplit(".", 2)[0]
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] > 2:
                path.unlink()


# --- installing -----------------------------------------------------------------------------------


def check_device(payload: Payload, root: Path, *, any_board: bool) -> None:
    """Refuses a payload for another machine, Python, C library, JetPack or board."""

    def refuse(what: str, found: str, expected: str, hint: str) -> NoReturn:
        raise Problem(
            f"payload {payload.id} is for {expected}, this device has {found} ({what})",
            hint,
            code=REFUSED,
        )

    right = "install the package that was made for this board"
    machine = os.uname().machine
    if machine != payload.machine:
        refuse("processor", machine, payload.machine, right)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if python != payload.python:
        refuse("Python", python, f"Python {payload.python}", right)
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "none").removeprefix("glibc ")
    if _numbers(libc) < _numbers(payload.glibc):
        refuse("C library", f"glibc {libc}", f"glibc {payload.glibc} or newer", right)
    l4t = l4t_of(root)
    if payload.l4t and not any(_starts(l4t, prefix) for prefix in payload.l4t):
        refuse("JetPack", f"L4T {l4t or 'none'}", f"L4T {' or '.join(payload.l4t)}", right)
    if (payload.modules or payload.compatible) and not any_board:
        found = compatible_of(root)
        modules = {one for entry in found for one in re.findall(r"\bp\d{4}-\d{4}\b", entry)}
        if not modules and (spec := tnspec_of(root)):
            modules, found = {spec}, [*found, f"TNSPEC {spec}"]
        if not modules & set(payload.modules) and not any(
            entry.startswith(beginning) for beginning in payload.compatible for entry in found
        ):
            refuse(
                "/proc/device-tree/compatible",
                ", ".join(found) or "none",
                f"board {payload.board}",
                f"{right}, or say that it fits all the same: --any-board",
            )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _starts(version: str, prefix: str) -> bool:
    numbers = _numbers(prefix)
    return bool(version) and _numbers(version)[: len(numbers)] == numbers


def l4t_of(root: Path) -> str:
    """ "36.4.3" of /etc/nv_tegra_release; "" where it is no Jetson."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def compatible_of(root: Path) -> list[str]:
    try:
        text = (root / "proc/device-tree/compatible").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return [entry for entry in text.split("\0") if entry]


def tnspec_of(root: Path) -> str:
    """ "p3767-0005" of the specification that the board was flashed by; "" where there is none."""
    try:
        text = (root / "etc/nv_boot_control.conf").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"^TNSPEC (\d{4})-[^-]*-(\d{4})-", text, re.MULTILINE)
    return f"p{found[1]}-{found[2]}" if found else ""


def check_space(layout: Layout, release: dict[str, Any], *, other_space: bool) -> None:
    """Refuses an encoder in whose space nothing that was taught could be read."""
    found = Database.look(layout.state / "state.db")
    if found and found.space_id and found.space_id != release["space_id"] and not other_space:
        raise Problem(
            f"release {release['id']} has the encoder of space {release['space_id'][:12]}, and "
            f"{layout.state} was taught in space {found.space_id[:12]}",
            "take a payload with that encoder, or begin with nothing taught: --other-space (what "
            f"was taught is kept in {layout.kept})",
            code=REFUSED,
        )


def check_room(layout: Layout, payload: Payload) -> None:
    needed = payload.installed_bytes + MARGIN_BYTES
    free = shutil.disk_usage(layout.opt).free
    if free < needed:
        raise Problem(
            f"no room to install {payload.id}: {free / 2**20:,.0f} MiB are free at {layout.opt}, "
            f"{needed / 2**20:,.0f} are needed",
            "free some, as with apt-get clean; nothing was changed",
        )


def clean(layout: Layout) -> None:
    """Removes what an install that was cut off left."""
    for folder in layout.releases.iterdir() if layout.releases.is_dir() else ():
        if layout.release(folder.name) is None:
            _remove_release(folder)


def prune(layout: Layout) -> None:
    """Removes releases other than the current one and the one before."""
    wanted = {layout.led_to(layout.current), layout.led_to(layout.previous)}
    for identifier in layout.installed():
        if identifier not in wanted:
            _remove_release(layout.releases / identifier)


def _remove_release(folder: Path) -> None:
    """First what makes it a release, so that a half removed one is none."""
    gone(folder / "release.json")
    shutil.rmtree(folder)


def build(layout: Layout, payload: Payload) -> None:
    """The release of a payload, whole and tried out, or none. It is not current yet."""
    folder = layout.releases / payload.id
    folder.mkdir(parents=True)
    try:
        say(f"installing {payload.id} ...")
        _run(
            [sys.executable, "-I", "-m", "venv", "--system-site-packages", "--without-pip"],
            str(folder / "venv"),
            hint="the system's Python lacks venv: apt-get install python3-venv",
        )
        python = folder / "venv/bin/python"
        wheels = payload.folder / "wheels"
        pip = next(iter(sorted(wheels.glob("pip-*.whl"))), None)
        if pip is None:
            raise Problem(f"no pip-*.whl in {wheels}", "make the payload again")
        _run(
            [str(python), "-I", str(pip / "pip"), "install", "--no-index", "--find-links"],
            *(str(wheels), "--require-hashes", "--only-binary", ":all:", "--ignore-installed"),
            *("--no-cache-dir", "--disable-pip-version-check", "--no-warn-script-location"),
            *("--root-user-action", "ignore", "--quiet"),
            *("-r", str(payload.folder / "requirements.txt")),
            hint="make the payload again",
        )
        shutil.copytree(payload.folder / "bundle", folder / "bundle")
        shutil.copyfile(payload.folder / "board.yaml", folder / "board.yaml")
        say("trying the encoder on its golden images ...")
        with tempfile.TemporaryDirectory() as empty:
            _run(
                [str(folder / "venv/bin/accrue"), "bundle", "verify", str(folder / "bundle")],
                environment={"ACCRUE_STATE": empty},
                hint="this payload does not work on this device; nothing was changed",
            )
        os.sync()  # all of it is on the disk before the line that makes it a release
        known = {key: value for key, value in payload.document.items() if key != "files"}
        write_json(folder / "release.json", {**known, "at": time.time()})
        fsync_folder(layout.releases)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _of_disk(error, payload) from None
        raise
    say(f"installed {payload.id}")


def _of_disk(error: OSError, payload: Payload) -> Problem:
    where = f" at {error.filename}" if error.filename else ""
    what = error.strerror or str(error)[:200]
    if "No space left on device" in str(error):  # shutil.Error holds a list of such
        what, where = "no space left on the disk", ""
    return Problem(
        f"cannot install {payload.id}: {what}{where}; nothing was changed",
        "make room, then again",
    )


def _run(
    words: list[str], *more: str, hint: str, environment: dict[str, str] | None = None
) -> None:
    """Runs a program without anything of our environment. Raises Problem with what it said last.

    A line that is indented belongs to the one before it, as a hint does to its error.
    """
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [*words, *more],
            check=False,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={
                **{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": home},
                **{"PIP_CONFIG_FILE": os.devnull, "ACCRUE_CONFIG": ""},
                **{key: os.environ[key] for key in ("TMPDIR",) if key in os.environ},
                **(environment or {}),
            },
        )
    if done.returncode:
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        said = [line for line in lines if not line[0].isspace()] or [line.strip() for line in lines]
        last = next((line for line in said if line.startswith("ERROR")), "") or (said or [""])[-1]
        if "No space left on device" in done.stdout:
            last, hint = "no space left on the disk; nothing was changed", "make room, then again"
        raise Problem(f"{Path(words[0]).name} failed ({done.returncode}): {last[:300]}", hint)


# --- from one release to another ------------------------------------------------------------------


def switch(
    layout: Layout, service: Service, to: str, *, trial: bool, other_space: bool = False
) -> bool:
    """Makes an installed release the current one. Returns whether it is on trial."""
    release = layout.release(to)
    if release is None:
        raise Problem(
            f"no release {to} is installed",
            f"installed: {', '.join(layout.installed()) or 'none'}",
            code=NOT_FOUND,
        )
    now = layout.led_to(layout.current)
    if now == to:
        say(f"{to} is the current release already")
        return False
    check_space(layout, release, other_space=other_space)
    trial = trial and bool(now)
    open_trial = layout.on_trial() or {}
    good = open_trial["from"] if open_trial.get("to") == now else now  # that was last kept
    if good == to:
        raise Problem(
            f"{now} is on trial, and {to} is what it goes back to",
            "accrue-release rollback",
            code=CONFLICT,
        )
    service.stop()
    before_use(layout, release)
    if trial:
        document = {"from": good, "to": to, "tries": 0, "other_space": other_space}
        write_json(layout.trial, document)
    elif now:
        gone(layout.trial)
        point(layout.previous, f"releases/{now}")
    point(layout.current, f"releases/{to}")
    fit_state(layout, release, afresh=other_space)
    service.start()
    say(f"{to} is the current release{' on trial' if trial else ''}")
    return trial


def commit(layout: Layout) -> str:
    """The release on trial stays. Returns its id."""
    trial = layout.on_trial()
    if trial is None:
        raise Problem("no release is on trial", "accrue-release status", code=CONFLICT)
    if layout.release(trial["from"]):
        point(layout.previous, f"releases/{trial['from']}")
    gone(layout.trial)
    note_outcome(layout, trial["to"], "committed", "")
    clean(layout)
    prune(layout)
    prune_kept(layout)
    say(f"{trial['to']} stays")
    return str(trial["to"])


def roll_back(layout: Layout, service: Service, why: str) -> str:
    """To the release before. Returns its id."""
    trial = layout.on_trial()
    now = layout.led_to(layout.current)
    back = str(trial["from"]) if trial else layout.led_to(layout.previous)
    release = layout.release(back) if back else None
    if release is None or (back == now and not trial):
        raise Problem(
            f"there is no release before {now or 'this one'} to go back to",
            f"installed: {', '.join(layout.installed())}; accrue-release activate ID"
            if layout.installed()
            else "none is installed: accrue-release install FOLDER",
            code=NOT_FOUND,
        )
    service.stop()
    point(layout.current, f"releases/{back}")
    fit_state(layout, release, bring_back=bool(trial and trial.get("other_space")))
    if not trial:
        gone(layout.previous)
    note_outcome(layout, now, "rolled back", why)
    gone(layout.trial)
    service.start()
    say(f"{back} is the current release again: {why}")
    return back


def note_outcome(layout: Layout, identifier: str, outcome: str, why: str) -> None:
    """What `status` tells of the last change."""
    document = {"id": identifier, "outcome": outcome, "why": why, "at": time.time()}
    write_json(layout.opt / "last.json", document)


def settle(layout: Layout, service: Service) -> None:
    """Before the service starts: what a power cut left is finished or undone."""
    trial = layout.on_trial()
    if trial is None and layout.trial.exists():
        aside = layout.trial.with_name(f"trial.unreadable.{time.time_ns()}")
        say(f"{layout.trial} cannot be read; kept as {aside.name}")
        layout.trial.replace(aside)
    now = layout.led_to(layout.current)
    if now and (why := unusable(layout.release(now) or {})):
        say(f"{now} {why}")
        now = ""
    if not now:
        rest = [trial["from"], trial["to"]] if trial else []
        rest += [layout.led_to(layout.previous), *layout.installed()]
        rest = [one for one in rest if one and not unusable(layout.release(one))]
        now = next(iter(rest), "")
        if now:
            say(f"{now} is the current release again")
            point(layout.current, f"releases/{now}")
    if not now:
        install_carried(layout, service)
        return
    if trial and now != trial["to"]:  # cut off before it began, or after it was undone
        fit_state(layout, layout.release(now) or {}, bring_back=bool(trial.get("other_space")))
        gone(layout.trial)
    elif trial and int(trial["tries"]) >= MOST_TRIES:
        roll_back(layout, service, f"it was started {MOST_TRIES} times and never became healthy")
    elif trial:
        write_json(layout.trial, {**trial, "tries": int(trial["tries"]) + 1})
        release = layout.release(now) or {}
        fit_state(layout, release, afresh=bool(trial.get("other_space")))
    else:
        before_use(layout, layout.release(now) or {})
        fit_state(layout, layout.release(now) or {})
    clean(layout)


def unusable(release: dict[str, Any] | None) -> str:
    """Why a release cannot run on this system, which may be another one than it was installed on:
    after an upgrade of the distribution, or in the other slot. "" where it can."""
    if release is None:
        return "is not installed"
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if release["python"] != python:
        return f"was installed for Python {release['python']}, and this system has {python}"
    return ""


def install_carried(layout: Layout, service: Service) -> None:
    """The first start of a device whose file system came with a payload."""
    found = sorted(layout.payloads.glob("*/payload.json")) if layout.payloads.is_dir() else []
    if not found:
        raise Problem(
            "no release is installed and no payload was brought along",
            f"apply an overlay or install a package; looked in {layout.payloads}",
            code=NOT_FOUND,
        )
    for path in found:
        try:
            install(layout, service, path.parent, trial=False)
            if layout.led_to(layout.current) != path.parent.name:
                switch(layout, service, path.parent.name, trial=False)
            return
        except Problem as problem:
            if path == found[-1]:
                raise
            say(problem.message)


def install(
    layout: Layout,
    service: Service,
    folder: Path,
    *,
    trial: bool,
    any_board: bool = False,
    other_space: bool = False,
) -> bool:
    """Installs a payload. The first release becomes the current one; a later one only on trial.

    Returns:
        Whether it is on trial now.
    """
    payload = Payload.read(folder)
    check_device(payload, layout.root, any_board=any_board)
    check_space(layout, payload.document, other_space=other_space)
    if layout.release(payload.id) is None:
        clean(layout)
        check_room(layout, payload)
        payload.verify()
        build(layout, payload)
    else:
        say(f"{payload.id} is installed already")
    if not layout.led_to(layout.current) or trial:
        return switch(layout, service, payload.id, trial=trial, other_space=other_space)
    if layout.led_to(layout.current) != payload.id:
        say(f"to use it: accrue-release activate {payload.id} --trial")
    return False


def unwell(layout: Layout, service: Service, wait_s: float) -> str:
    """ "" once the service has answered for a while that it is ready; else why it has not."""
    until, since, why = time.monotonic() + wait_s, None, "it was not asked"
    while time.monotonic() < until:
        time.sleep(0.5)
        why = service.ready(layout)
        if why:
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() - since >= HEALTHY_FOR_S:
            return ""
    reason = why or f"it answered, but not for {HEALTHY_FOR_S:.0f} s"
    return f"not healthy within {wait_s:.0f} s: {reason}"


def health(layout: Layout, service: Service, wait_s: float) -> bool:
    """Keeps the release on trial once the service is well, else goes back. Without a trial it
    changes nothing. Whoever else changes releases is not kept out meanwhile: the service's start
    waits for `boot`.

    Returns:
        Whether the release that was current, on trial or not, is well and stays.
    """
    trial = layout.on_trial()
    why = unwell(layout, service, wait_s)
    if trial is None:
        say(why or "it is well; no release is on trial")
        return not why
    with layout.lock(wait=True):
        now = layout.on_trial()
        if now is None or now["to"] != trial["to"]:  # another call of this verb was first
            return layout.led_to(layout.current) == str(trial["to"])
        if why:
            roll_back(layout, service, why)
        else:
            commit(layout)
        return not why


def remove(layout: Layout, service: Service) -> None:
    """All releases. What was taught and the settings stay."""
    service.stop()
    gone(layout.trial)
    gone(layout.current)
    gone(layout.previous)
    if layout.releases.is_dir():
        for folder in layout.releases.iterdir():
            _remove_release(folder)
    for path in layout.opt.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
    (layout.opt / ".lock").unlink(missing_ok=True)
    with suppress(OSError):
        layout.opt.rmdir()
    say(f"removed; {layout.state} was left as it is")


def status(layout: Layout) -> dict[str, Any]:
    current = layout.led_to(layout.current)
    release = layout.release(current) or {}
    problems = []
    if not current:
        problems.append("no release is current; accrue-release boot")
    elif why := unusable(release):
        problems.append(f"{current} {why}; install a package that was made for it")
    return {
        "current": current or None,
        "version": release.get("version"),
        "board": release.get("board"),
        "space_id": release.get("space_id"),
        "previous": layout.led_to(layout.previous) or None,
        "trial": layout.on_trial(),
        "installed": layout.installed(),
        "carried": sorted(path.parent.name for path in layout.payloads.glob("*/payload.json")),
        "last": read_json(layout.opt / "last.json"),
        "problems": problems,
    }


# --- the command line -----------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="accrue-release", description=__doc__.split("\n\n")[0])
    top.add_argument("--root", type=Path, default=Path("/"), help="Folder that stands for /.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="The outcome as JSON on stdout.")
        return made

    def wait(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--wait",
            type=float,
            default=float(os.environ.get("ACCRUE_RELEASE_WAIT", HEALTH_S)),
            metavar="SECONDS",
            help=f"Until it has to be healthy; default {HEALTH_S:.0f}.",
        )

    one = verb("install", "Install a payload beside what is there; the first becomes current.")
    one.add_argument("payload", type=Path, metavar="DIR", help="Folder with payload.json.")
    one.add_argument("--trial", action="store_true", help="Use it, and go back if it is not well.")
    one.add_argument("--no-wait", action="store_true", help="Leave the verdict to `health`.")
    one.add_argument("--any-board", action="store_true", help="Whatever board this is.")
    one.add_argument("--other-space", action="store_true", help="Begin with nothing taught.")
    wait(one)
    one = verb("activate", "Use an installed release.")
    one.add_argument("id", metavar="ID", help="From `status`.")
    one.add_argument("--trial", action="store_true", help="Go back if it is not well.")
    one.add_argument("--no-wait", action="store_true", help="Leave the verdict to `health`.")
    one.add_argument("--other-space", action="store_true", help="Begin with nothing taught.")
    wait(one)
    verb("commit", "Keep the release on trial.")
    verb("rollback", "Go back to the release before.")
    verb("status", "What is installed, current and on trial.")
    verb("boot", "Before the service: finish or undo what a cut left; install what was carried.")
    wait(verb("health", "Whether the service is well; keeps a release on trial, or goes back."))
    verb("remove", "Remove all releases; what was taught stays.")
    return top


def call(words: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Exit code, and the state of things as `status` has it."""
    root = words.root.absolute()  # programs are run elsewhere than here
    layout, service = Layout(root), Service(root)
    code = 0
    if words.verb == "status":
        return 0, status(layout)
    if words.verb == "install":
        with layout.lock():
            on_trial = install(
                layout,
                service,
                words.payload.absolute(),
                trial=words.trial,
                any_board=words.any_board,
                other_space=words.other_space,
            )
    elif words.verb == "activate":
        with layout.lock():
            on_trial = switch(
                layout, service, words.id, trial=words.trial, other_space=words.other_space
            )
    else:
        on_trial = words.verb == "health"
    if on_trial and not getattr(words, "no_wait", False):
        # A device whose system is not running, as in an image, is judged at its first start.
        if service.managed or words.verb == "health":
            code = 0 if health(layout, service, words.wait) else 1
        else:
            say("the service does not run here; the verdict comes with the next start")
    if words.verb in ("commit", "rollback", "boot", "remove"):
        with layout.lock(wait=words.verb == "boot"):
            if words.verb == "commit":
                commit(layout)
            elif words.verb == "rollback":
                roll_back(layout, service, "the operator said so")
            elif words.verb == "boot":
                settle(layout, service)
            else:
                remove(layout, service)
    return code, status(layout)


def main(arguments: list[str] | None = None) -> int:
    words = parser().parse_args(arguments)
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code, found = call(words)
    except Problem as problem:
        say(problem.message)
        if problem.hint:
            say(f"  {problem.hint}")
        if words.json:
            print(json.dumps({"error": {"message": problem.message, "hint": problem.hint}}))
        return problem.code
    except OSError as error:
        say(f"{error.strerror or error}: {error.filename or 'a file'}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the current release is as it was")
        return 130
    if words.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    elif words.verb == "status":
        _show(found)
    return code


def _show(found: dict[str, Any]) -> None:
    print(f"current\t{found['current'] or 'none'}")
    if found["trial"]:
        print(f"on trial\tsince {found['trial']['from']}, start {found['trial']['tries']}")
    print(f"previous\t{found['previous'] or 'none'}")
    print(f"installed\t{', '.join(found['installed']) or 'none'}")
    print(f"carried\t{', '.join(found['carried']) or 'none'}")
    if found["last"]:
        why = f": {found['last']['why']}" if found["last"]["why"] else ""
        print(f"last\t{found['last']['id']} {found['last']['outcome']}{why}")
    for problem in found["problems"]:
        print(f"problem\t{problem}")


if __name__ == "__main__":
    sys.exit(main())
