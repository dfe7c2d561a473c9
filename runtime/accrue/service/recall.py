"""Which head was chosen, and what shots scored when they were left out, kept for the next start.

    STATE/choice.npz

With thousands of shots that takes seconds to work out, and a process that starts would wait for it
before its first answer. It is a cache: it holds the digest of all that it was worked out from, and
what does not match, is damaged or missing is worked out anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accrue import __version__
from accrue.errors import StoreError
from accrue.learn import Choice, LeftOut
from accrue.learn.choice import competitors
from accrue.store.files import write_atomically

if TYPE_CHECKING:
    from accrue.service.box import Learned

FILE_NAME = "choice.npz"
FORMAT_VERSION = 1
MANY_SHOTS = 200  # below, working it out is as fast as reading it
_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
)


def key_of(learned: Learned) -> str:
    """SHA-256 of what a choice follows from: rows (a shot's never change), texts, settings."""
    settings = learned.settings
    told: list[Any] = [
        *(FORMAT_VERSION, __version__, np.__version__, learned.state.space, learned.state.n),
        *(settings.head, settings.shrinkage, settings.ridge),
        *(settings.random_features, settings.predict_views),
    ]
    hasher = hashlib.sha256(json.dumps(told).encode())
    for one in learned.evidence:
        hasher.update(json.dumps([one.id, one.shot_ids, one.text is not None]).encode())
        if one.text is not None:
            hasher.update(one.text.tobytes())
        if one.folded is not None:
            hasher.update(one.folded.to_bytes())
    return hasher.hexdigest()


def _opened(folder: Path) -> Any:
    """What is kept. In memory, because a file that is no archive would stay open."""
    return np.load(io.BytesIO((folder / FILE_NAME).read_bytes()), allow_pickle=False)


def recalled(learned: Learned) -> Choice | None:
    """The choice for exactly this evidence, its head solved; None where it is not kept."""
    if learned.folder is None or len(learned.shots) < MANY_SHOTS:
        return None
    try:
        with _opened(learned.folder) as kept:
            if str(kept["key"]) != key_of(learned):
                return None
            told = json.loads(str(kept["told"]))
            ids = [*learned.names, ""]
            left_out = LeftOut(
                kept["shots"].astype(np.intp),
                kept["own"],
                kept["rival"],
                [ids[k] for k in kept["rivals"].tolist()],
                kept["familiarity"],
            )
            head = learned.settings.chosen_head()
            if head is None:
                heads = competitors(learned.state, learned.texts, learned.settings.random_features)
                head = heads[told["place"]]
            return Choice(
                head,
                head.solve(learned.state),
                left_out,
                told["reason"],
                told["rivals"],
                told["place"],
            )
    except _UNREADABLE:
        return None


def keep(learned: Learned) -> None:
    """Keeps what was worked out of this evidence, where that took long and is not kept yet."""
    known: Learned = learned.__dict__.get("enabled", learned)
    found: Choice | None = known.__dict__.get("choice")
    if found is None or known.earlier is not None or known.folder is None:
        return
    if found is known.kept_choice:  # it came from there
        return
    if len(known.shots) < MANY_SHOTS:
        return
    key = key_of(known)
    with suppress(*_UNREADABLE), _opened(known.folder) as kept:
        if str(kept["key"]) == key:
            return
    position = {class_id: k for k, class_id in enumerate([*known.names, ""])}
    left_out, content = found.left_out, io.BytesIO()
    np.savez(
        content,
        key=key,
        told=json.dumps(
            {"place": found.place, "reason": found.reason, "rivals": dict(found.rivals)}
        ),
        shots=left_out.shots.astype(np.int32),
        own=left_out.own,
        rival=left_out.rival,
        rivals=np.array([position[one] for one in left_out.rival_id], np.int32),
        familiarity=left_out.familiarity,
    )
    with suppress(StoreError):  # a full or read-only disk: it is worked out again
        write_atomically(known.folder / FILE_NAME, [content.getvalue()])


def forget(folder: Path) -> None:
    """Keeps nothing, as after a purge: what was worked out tells of what is gone."""
    with suppress(OSError):
        (folder / FILE_NAME).unlink()
