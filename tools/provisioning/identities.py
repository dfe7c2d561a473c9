"""Who each device of a batch is: key pair, enrolment in a fleet, the way to the broker.

One file for each device, `NAME.enrolment`: a secret of that device alone. The device takes it up
at its first start from `/etc/accrue/credentials/enrolment` and joins by itself.

In the fleet the whole batch is one step of the owner's log and one version of the roster, so
`accrue-fleet undo` takes it back. Files are written first, then accounts, then the roster, then the
receipt `issued.json`: a run that is cut short is either finished by the next one or left no trace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, progress, say
from accrue.cli.owner_session import actor
from accrue.errors import Conflict, UsageError
from accrue.service.governance import BROKER_FOLDER
from accrue.store.failures import translated
from accrue.sync.broker import BrokerFolder, new_password
from accrue.sync.enrol import Applicant, Enrolment, make_ticket
from accrue.sync.identity import Identity, fingerprint, read_file, write_private
from accrue.sync.owner import admission_of, require_broker
from accrue.sync.reload import reload_broker
from accrue.sync.roster import KeyWindow, Member
from accrue.sync.workspace import Workspace

SUFFIX, RECEIPT, ACCOUNTS = ".enrolment", "issued.json", "accounts"
MOST = 10_000
LARGEST_LIST_BYTES = 1 << 20
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
Update = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Issued:
    """One device of a batch, without its secrets."""

    name: str
    device: str
    key: str
    file: str


@dataclass(frozen=True)
class Batch:
    """What was made.

    Attributes:
        roster, step: its version, and the step of the owner's log that takes it back.
        accounts: file with user names and passwords for a broker that somebody else runs; "" where
            the accounts are made. reloaded: a broker on this machine has read them.
    """

    fleet: str
    owner: str
    broker: str
    roster: int
    step: int
    devices: tuple[Issued, ...]
    accounts: str = ""
    reloaded: bool = False


def command(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="New folder for the files; private.")
    ],
    fleet: Annotated[
        Path,
        typer.Option("--fleet", metavar="DIR", envvar="ACCRUE_FLEET", help="The owner's folder."),
    ],
    number: Annotated[
        int | None,
        typer.Option("--count", min=1, max=MOST, metavar="N", help="How many devices."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Or their names, one a line."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="With --count: begin of the names.")
    ] = "box",
    as_json: Json = False,
) -> None:
    """Make an identity for each of a list of devices, and let them into the fleet."""
    if (number is None) == (names is None):
        raise UsageError(
            "the devices are given by --count or by --list",
            hint="for example: --count 20 --prefix dock",
        )
    with Workspace.open(fleet, actor=actor()) as workspace, progress() as update:
        taken = {member.name for member in workspace.roster().devices.values()}
        wanted = numbered(prefix, number, taken) if number else read_names(names, taken)
        batch = issue(workspace, wanted, out, update=update)
    if as_json:
        emit({**{k: v for k, v in vars(batch).items() if k != "devices"}, "out": str(out),
              "devices": [vars(one) for one in batch.devices]})  # fmt: skip
        return
    say(
        f"{count(len(batch.devices), 'identity', 'identities')} in {out}, roster {batch.roster} of "
        f"fleet {batch.fleet} (take it back: accrue-fleet undo {batch.step})"
    )
    if batch.accounts:
        note(f"give the accounts in {out / batch.accounts} to your broker, then delete the file")
    elif not batch.reloaded:
        note(f"copy {fleet / BROKER_FOLDER} to the broker, and reload it")
    note("next: accrue-fleet status, which tells the broker of the new roster")
    note("each file is the secret of one device: delete it once the device has it")


def numbered(prefix: str, number: int, taken: set[str]) -> list[str]:
    """The next free names: box-0001, box-0002 and so on. Raises UsageError for a bad prefix."""
    width = max(4, len(str(number)))

    def free() -> Iterator[str]:
        n = 0
        while True:
            n += 1
            name = f"{prefix}-{n:0{width}}"
            if name not in taken:
                yield name

    names = free()
    return clean_names([next(names) for _ in range(number)], taken, f"--prefix {prefix}")


def read_names(file: Path | None, taken: set[str]) -> list[str]:
    """The names in a file, one a line; empty lines and what follows a # do not count.

    Raises:
        NotFound, UsageError: no such file, no name in it, or a name that is none or comes twice.
    """
    assert file is not None
    data = read_file(
        file, LARGEST_LIST_BYTES, missing=f"no list {file}", hint="one name a line, as in dock-1"
    )
    if len(data) > LARGEST_LIST_BYTES:
        raise UsageError(f"{file} is larger than 1 MiB", hint="one name a line, as in dock-1")
    lines = data.decode("utf-8", "replace").splitlines()
    return clean_names([name for line in lines if (name := line.partition("#")[0].strip())],
                       taken, str(file))  # fmt: skip


def clean_names(names: Sequence[str], taken: set[str], origin: str) -> list[str]:
    """Raises UsageError, or Conflict where the roster has one already."""
    if not 1 <= len(names) <= MOST:
        raise UsageError(
            f"{origin} names {count(len(names), 'device')}; expected 1 to {MOST:,}",
            hint="one name a line, as in dock-1",
        )
    seen: set[str] = set()
    for name in names:
        if not HOSTNAME.fullmatch(name):
            raise UsageError(
                f"{origin}: {name[:80]!r} is no name for a device; expected a host name: a-z, 0-9 "
                "and -, at most 63",
                hint="for example: dock-3",
                found=name,
            )
        if name in seen:
            raise UsageError(f"{origin}: {name} comes twice", hint="each device needs its own")
        if name in taken:
            raise Conflict(
                f"{name} is in the roster already; nothing was made",
                hint="choose another name, or take that device out: accrue-fleet roster revoke",
                found=name,
            )
        seen.add(name)
    return list(names)


def issue(
    workspace: Workspace,
    names: Sequence[str],
    out: Path,
    *,
    update: Update = lambda *_: None,
) -> Batch:
    """Makes a batch: files, accounts at the broker, the roster.

    Args:
        names: none of them in the roster. out: a folder that is not there, or is empty.
        update: called with (what, done, total).

    Raises:
        Conflict: there is something in `out`. NotFound: the fleet has no broker yet.
        StoreFull, StoreError: nothing was let in; what was written is gone again.
    """
    require_broker(workspace)
    _require_empty(workspace, out)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was cut short before
    passwords: dict[str, str] = {}
    members: dict[str, Member] = {}
    known = set(workspace.roster().devices)
    files = BrokerFolder(workspace.folder / BROKER_FOLDER)
    external = not files.accounts_file.exists()
    try:
        with translated(out):
            unfinished.mkdir(mode=0o700, parents=True)
        issued = []
        for done, name in enumerate(names, 1):
            identity = _new_identity(known)
            known.add(identity.device)
            passwords[identity.device] = new_password()
            admission = admission_of(workspace, identity.device, passwords[identity.device])
            ticket = make_ticket(Applicant.of(identity, name), admission, workspace.key)
            Enrolment(name, identity, ticket).save(unfinished / f"{name}{SUFFIX}")
            members[identity.device] = Member(name, (KeyWindow(identity.public),))
            shown = fingerprint(identity.public)
            issued.append(Issued(name, identity.device, shown, f"{name}{SUFFIX}"))
            update("identities", done, len(names))
        if external:
            lines = (f"{device}:{password}\n" for device, password in passwords.items())
            write_private(unfinished / ACCOUNTS, "".join(lines).encode())
        with translated(out), suppress(FileNotFoundError):
            out.rmdir()
        with translated(out):
            unfinished.rename(out)
            _fsync(out.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    try:
        reloaded = False
        if not external:
            files.set_accounts({device: ("device", p) for device, p in passwords.items()})
            reloaded = reload_broker(files)
        what = names[0] if len(names) == 1 else f"{len(names)} devices, {names[0]} to {names[-1]}"
        step = workspace.set_devices(members, "issue", f"prepared {what}")
    except BaseException:  # accounts without a device in the roster are closed by the next command
        shutil.rmtree(out, ignore_errors=True)
        raise
    return _receipt(workspace, out, tuple(issued), step.seq, reloaded)


def _new_identity(known: set[str]) -> Identity:
    """One whose id nobody has. Two of 60 random bits are alike once in 10^12 fleets of a thousand;
    it is looked up all the same."""
    while (identity := Identity.create()).device in known:
        pass
    return identity


def _require_empty(workspace: Workspace, out: Path) -> None:
    """Finishes what a run left that was cut short after the roster had its devices.

    Raises Conflict where `out` holds anything, then also saying that it is complete now.
    """
    if not out.exists():
        return
    if not out.is_dir() or (out / RECEIPT).exists():
        raise Conflict(
            f"{out} is there already; nothing was changed",
            hint="choose another --out: no identity is made twice",
            path=str(out),
        )
    left = sorted(out.glob(f"*{SUFFIX}"))
    if not left:
        if any(out.iterdir()):
            raise Conflict(f"{out} is not empty; nothing was changed", hint="choose another --out")
        return
    roster = workspace.roster()
    issued = []
    for file in left:
        found = Enrolment.load(file)
        member = roster.devices.get(found.identity.device)
        if member is None or member.public != found.identity.public:
            raise Conflict(
                f"{out} is what a run left that was cut short; the roster knows nothing of it",
                hint=f"rm -r {out}, and run it again",
                path=str(out),
            )
        issued.append(
            Issued(found.name, found.identity.device, fingerprint(member.public), file.name)
        )
    ids = f"devices/{','.join(sorted(one.device for one in issued))}"
    step = next((s for s in workspace.log() if s.subject == ids), None)
    _receipt(workspace, out, tuple(issued), step.seq if step else 0, False)
    raise Conflict(
        f"{out} was left by a run that was cut short; its {count(len(issued), 'device')} "
        "are in the roster, and it is complete now",
        hint="use it; for more devices choose another --out",
        path=str(out),
    )


def _receipt(
    workspace: Workspace, out: Path, issued: tuple[Issued, ...], step: int, reloaded: bool
) -> Batch:
    broker = require_broker(workspace)
    batch = Batch(
        workspace.fleet,
        fingerprint(workspace.public),
        f"{broker.host}:{broker.port}",
        workspace.roster().version,
        step,
        issued,
        ACCOUNTS if (out / ACCOUNTS).exists() else "",
        reloaded,
    )
    body = {"accrue": "issued/1", **vars(batch), "devices": [vars(one) for one in issued]}
    del body["reloaded"]
    write_private(out / RECEIPT, json.dumps(body, indent=1).encode() + b"\n")
    return batch


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
