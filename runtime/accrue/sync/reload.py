"""The accounts of a Mosquitto on this machine: as the roster has them, and read again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from accrue.sync.broker import BrokerFolder
from accrue.sync.workspace import Workspace

PROC = Path("/proc")


def reload_broker(files: BrokerFolder) -> bool:
    """Sends SIGHUP to each Mosquitto that was started with this folder's configuration.

    Returns:
        Whether one was told. False where none runs here, or this user may not signal it: then it
        has to be told by hand (`sudo systemctl reload mosquitto`).
    """
    told = False
    for number in running(files):
        try:
            os.kill(number, signal.SIGHUP)
        except (PermissionError, ProcessLookupError):
            continue
        told = True
    return told


def running(files: BrokerFolder) -> list[int]:
    """Process ids of the Mosquittos that were started with this folder's configuration."""
    wanted = files.configuration.resolve()
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"mosquitto" not in words[0] or b"-c" not in words:
                continue
            given = Path(os.fsdecode(words[words.index(b"-c") + 1]))
            if not given.is_absolute():
                given = (folder / "cwd").resolve() / given
            if given.resolve() == wanted:
                found.append(int(folder.name))
        except (OSError, IndexError):  # gone in the meantime, or not ours to look at
            continue
    return found


def match_accounts(workspace: Workspace, files: BrokerFolder) -> bool:
    """Closes the accounts of devices that are revoked or no longer in the roster, and opens those
    that were closed so and are back, with the password that they had.

    Returns:
        Whether anything was changed, so that the broker has to be told.
    """
    devices = workspace.roster().devices
    present = files.accounts()

    def is_in(device: str) -> bool:
        member = devices.get(device)
        return member is not None and member.revoked is None

    out = [one for one, role in present.items() if role == "device" and not is_in(one)]
    if out:
        workspace.note_closed(files.close_accounts(out))
    back = {one: hashed for one, hashed in workspace.closed_accounts().items() if is_in(one)}
    missing = {one: hashed for one, hashed in back.items() if one not in present}
    if missing:
        files.open_accounts(missing, "device")
    if back:
        workspace.note_opened(back)
    return bool(out or missing)
