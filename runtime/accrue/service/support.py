"""A file for support: what the doctor found, facts, settings and logs, without secrets.

Whoever sends it to somebody should not have to read it first. So what may hold a secret is left out
as a whole (the state, keys, who has access), addresses are cut down to their host, and whatever
looks like a secret is taken out of every text that is left.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

from accrue import __version__
from accrue.board import which
from accrue.device import describe
from accrue.errors import AccrueError, Conflict
from accrue.service.access import CODE_LETTERS
from accrue.service.checks import FAIL, OK, WARN, Check
from accrue.service.settings import Origin, Settings
from accrue.store.files import FileSteps, write_atomically
from accrue.vitals import read_vitals

GONE = "***"
LOG_LINES, KERNEL_LINES = 5000, 500
LARGEST_LOG_BYTES = 8 << 20
COMMAND_LIMIT_S = 30
MOST_FILES = 2000
SYSTEM_FILES = (
    "etc/os-release",
    "etc/nv_tegra_release",
    "proc/version",
    "proc/uptime",
    "proc/meminfo",
)
ABOUT = """\
Written by `accrue doctor --support` of Accrue {version} on {day}.

doctor.txt, doctor.json   every check: what was found, what was expected, what to type
device.json               processor, system, packages, GPU, memory
board.json, vitals.json   which board it is and why; power mode, temperatures, rails, alarms
settings.json             each setting and where it comes from; addresses without path and password
packages.txt, system.txt  Python packages with versions; release files of the system
files.txt                 names, sizes and dates of what is in the state folder, not its contents
log.txt, kernel.txt       the end of the service's log and of the kernel's, where they can be read

Not in it: photos, rows, the database, keys, tickets, certificates, who has access. Passwords,
tokens, keys and pairing codes are written as {gone} wherever they were met in a text.
The log names classes, cameras and the people who taught. Read it before you make it public.
"""
_NAMES = r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|private[_-]?key|psk|ticket|cookie"
_PATTERNS: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?(?:-----END \1-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"(://[^/\s:@]*):\S*@"), rf"\1:{GONE}@"),
    (re.compile(r"(?i)\b(bearer|basic) +[\w+/=.~-]{6,}"), rf"\1 {GONE}"),
    (
        re.compile(rf"(?i)(\b[\w-]*(?:{_NAMES})\b[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"),
        rf"\1{GONE}",
    ),
    (re.compile(r"(#pair=)\S+"), rf"\1{GONE}"),
    (re.compile(rf"\b[{CODE_LETTERS}]{{4}}-[{CODE_LETTERS}]{{4}}\b"), GONE),  # a pairing code
    (re.compile(r"(?<![\w/+-])[A-Za-z0-9_-]{43}=?(?![\w/+=-])"), GONE),  # 32 bytes in base 64
)


def write_support(
    path: Path,
    settings: Settings,
    checks: Sequence[Check],
    origins: Mapping[str, Origin] | None = None,
    *,
    root: Path = Path("/"),
    run: Callable[[Sequence[str]], str] | None = None,
) -> int:
    """Writes the file, readable for its owner alone; bytes written.

    Args:
        checks: of the doctor. origins, root, run: as for `support_file`.

    Raises:
        Conflict: there is such a file already.
        StoreError: it cannot be written; nothing is left.
    """
    refuse_existing(path)
    content = support_file(settings, checks, origins, root=root, run=run)
    return write_atomically(path, [content], steps=FileSteps(create=_private))


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise Conflict(
            f"{path} is there already", hint="name another file, or remove it", path=str(path)
        )


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def support_file(
    settings: Settings,
    checks: Sequence[Check],
    origins: Mapping[str, Origin] | None = None,
    *,
    root: Path = Path("/"),
    run: Callable[[Sequence[str]], str] | None = None,
) -> bytes:
    """A zip file of texts.

    Args:
        checks: of the doctor.
        origins: where each setting is from, where that is known.
        root: folder that stands for ``/``.
        run: gives what a program prints; default: runs it.
    """
    run = run or _run
    origins = origins or {
        key.name: Origin(getattr(settings, key.name), "") for key in fields(Settings)
    }
    device = describe(root)
    parts: dict[str, Callable[[], Any]] = {  # a text, or what becomes JSON
        "README.txt": lambda: ABOUT.format(
            version=__version__, day=time.strftime("%Y-%m-%d"), gone=GONE
        ),
        "doctor.txt": lambda: "\n".join(page(checks)) + "\n",
        "doctor.json": lambda: [asdict(check) for check in checks],
        "device.json": device.document,
        "board.json": lambda: _board(settings, device),
        "vitals.json": lambda: asdict(read_vitals(which(settings.board, device).board, root)),
        "settings.json": lambda: _plain(origins),
        "packages.txt": _packages,
        "system.txt": lambda: _system(root),
        "files.txt": lambda: "\n".join(_files(settings.state)) + "\n",
        "log.txt": lambda: run(
            ["journalctl", "-u", "accrue*", "-n", str(LOG_LINES), "--no-pager", "-o", "short-iso"]
        ),
        "kernel.txt": lambda: run(["journalctl", "-k", "-n", str(KERNEL_LINES), "--no-pager"]),
    }
    scrub = scrubber(settings)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, make in parts.items():
            try:
                made = make()
                text = scrub(made) if isinstance(made, str) else _json(made, scrub)
            except (AccrueError, OSError, ValueError) as error:  # one part never costs the others
                text = scrub(f"not there: {error}\n")
            archive.writestr(name, text)
    return buffer.getvalue()


def page(checks: Iterable[Check]) -> list[str]:
    """The findings as lines for people, with a summary at the end."""
    lines, counts = [], dict.fromkeys((OK, WARN, FAIL), 0)
    for check in checks:
        counts[check.status] += 1
        lines.append(f"{check.status:<4}  {check.name}: {check.message}")
        if check.hint:
            lines.append(f"      {check.hint}")
    lines.append(f"{counts[OK]} ok, {counts[WARN]} to look at, {counts[FAIL]} at fault")
    return lines


def scrubber(settings: Settings) -> Callable[[str], str]:
    """Takes secrets out of a text: those of the settings literally, others by their look."""
    literal: set[str] = set()
    for address in re.findall(r"\w+://\S+", " ".join((*settings.cameras, settings.webhook or ""))):
        whole, _, rest = address.rpartition("@")
        userinfo = whole.partition("://")[2]
        path = "/".join((rest or address.partition("://")[2]).split("/")[1:])
        literal |= {text for text in (userinfo, userinfo.partition(":")[2], path) if len(text) > 3}
    ordered = sorted(literal, key=len, reverse=True)

    def scrub(text: str) -> str:
        for secret in ordered:
            text = text.replace(secret, GONE)
        for pattern, by in _PATTERNS:
            text = pattern.sub(by, text)
        return text

    return scrub


def _plain(origins: Mapping[str, Origin]) -> dict[str, Any]:
    """Settings as JSON, addresses cut down to their host."""

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return [cut(one) for one in value]
        if isinstance(value, str) and "://" in value:
            scheme, _, rest = value.partition("://")
            host = re.split(r"[/?#]", rest.rpartition("@")[2])[0]
            return f"{scheme}://{host}/{GONE}"
        return value if isinstance(value, str | int | float | None) else str(value)

    return {
        name: {"value": cut(found.value), "origin": found.text} for name, found in origins.items()
    }


def _board(settings: Settings, device: Any) -> dict[str, Any]:
    found = which(settings.board, device)
    facts = {"matched": found.matched, "differing": found.differing}
    return {
        "board": found.board.name if found.board else None,
        "by": found.by,
        **{name: [asdict(fact) for fact in some] for name, some in facts.items()},
    }


def _json(value: Any, scrub: Callable[[str], str]) -> str:
    """With each text scrubbed by itself, so that it stays JSON."""

    def clean(one: Any) -> Any:
        if isinstance(one, dict):
            return {name: clean(value) for name, value in one.items()}
        if isinstance(one, list | tuple):
            return [clean(each) for each in one]
        return scrub(one) if isinstance(one, str) else one

    return json.dumps(clean(value), indent=2, ensure_ascii=False, default=str) + "\n"


def _packages() -> str:
    found = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _system(root: Path) -> str:
    lines = [" ".join(os.uname())]
    for name in SYSTEM_FILES:
        try:
            text = (root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = "not there"
        lines += [f"--- /{name}", text.strip()]
    for folder in ("/", "/var/lib", "/opt"):
        if Path(folder).is_dir():
            usage = shutil.disk_usage(folder)
            lines.append(f"--- {folder}: {usage.free >> 20} of {usage.total >> 20} MiB free")
    return "\n".join(lines) + "\n"


def _files(state: Path) -> Iterable[str]:
    """Of the state folder, each file; names of secrets tell nothing, and contents are not read."""
    for n, path in enumerate(sorted(state.rglob("*")) if state.is_dir() else ()):
        if n >= MOST_FILES:
            yield "..."
            return
        about = path.lstat()
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about.st_mtime))
        mode, name = f"{about.st_mode & 0o7777:04o}", path.relative_to(state)
        yield f"{mode} {about.st_size:>12} {changed} {name}"


def _run(words: Sequence[str]) -> str:
    """What a program prints, at most the end of it; or why it could not be asked."""
    try:
        asked = subprocess.run(
            words,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return f"not there: {words[0]} is not installed\n"
    except subprocess.TimeoutExpired:
        return f"not there: {words[0]} took longer than {COMMAND_LIMIT_S} s\n"
    text = asked.stdout[-LARGEST_LOG_BYTES:].decode("utf-8", "replace")
    return text or f"not there: {asked.stderr[-500:].decode('utf-8', 'replace').strip()}\n"
