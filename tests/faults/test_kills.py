"""The service killed (SIGKILL) at random instants while it is taught over HTTP.

300 times here, 10,000 times in the nightly run (`./tools/nightly`). A model beside it adds up the
rows of what was acknowledged; after each kill the digest that the next service answers with must
be that of the model, with or without the one request that had no answer yet.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from kill_child import settings
from PIL import Image

from accrue.learn.state import State
from accrue.learn.statistics import Rows
from accrue.service.access import Access
from accrue.service.box import Box
from accrue.store import Store, class_id

KILLS, NIGHTLY_KILLS = 300, 10_000
PHOTOS, CLASSES = 12, 4
MOST_CLASS_SHOTS = 40  # then the class is removed, so that a long run stays as quick as a short one
LOOK_INSIDE_EVERY = 50
REQUESTS = 6  # within the time of so many of them it is killed, at some instant
EARLY_EVERY = 8  # kills: one during the first request
GONE = (ConnectionError, http.client.HTTPException, OSError)


class Model:
    """What was taught, by name of the class: the rows of each acknowledged shot."""

    def __init__(self, space: str, dim: int) -> None:
        self.space, self.dim = space, dim
        self.rows: dict[str, list[Rows]] = {}
        self.shots: dict[str, str] = {}  # id to class

    def copy(self) -> Model:
        other = Model(self.space, self.dim)
        other.rows = {name: list(rows) for name, rows in self.rows.items()}
        other.shots = dict(self.shots)
        return other

    def taught(self, name: str, rows: Rows) -> Model:
        other = self.copy()
        other.rows.setdefault(name, []).append(rows)
        return other

    def removed(self, name: str) -> Model:
        other = self.copy()
        del other.rows[name]
        other.shots = {shot: owner for shot, owner in self.shots.items() if owner != name}
        return other

    def digest(self) -> str:
        state = State(self.space, self.dim)
        for name, rows in self.rows.items():
            for one in rows:
                state.add(class_id("default", name), one)
        return state.digest()


class Client:
    """Asks one service, as an operator's program does."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, content: bytes = b"", media: str = "") -> Any:
        headers = self._headers | ({"content-type": media} if media else {})
        self._connection.request(method, f"/api/v1{path}", content or None, headers)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status < 300, body
        return json.loads(body)

    def close(self) -> None:
        self._connection.close()


class Services:
    """Services of one process that forks them."""

    def __init__(self, state: Path, bundle: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        child = Path(__file__).with_name("kill_child.py")
        self.log = (state.parent / "log").open("wb")
        self.parent = subprocess.Popen(
            [sys.executable, str(child), str(state), str(bundle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
            env=environment,
        )

    def start(self) -> tuple[int, int]:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write("\n")
        word, *said = self.parent.stdout.readline().split() or ["gone"]
        assert word == "go", f"no service: {word}\n{self.said()}"
        pid, port = map(int, said)
        return pid, port

    def said(self) -> str:
        """The end of what the services wrote to stderr."""
        return Path(self.log.name).read_text(errors="replace")[-3000:]

    def reaped(self) -> None:
        assert self.parent.stdout is not None
        assert self.parent.stdout.readline() == "dead\n"

    def close(self) -> None:
        assert self.parent.stdin is not None
        self.parent.stdin.close()
        assert self.parent.stdout is not None
        assert self.parent.wait(20) == 0
        self.parent.stdout.close()
        self.log.close()


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@contextmanager
def killed_within(pid: int, seconds: float | None) -> Iterator[None]:
    """Kills it after some time; None: not at all."""
    timer = threading.Timer(seconds or 0.0, os.kill, (pid, signal.SIGKILL))
    if seconds is None:
        yield
        return
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def rows_of(photos: list[bytes], folder: Path, bundle: Path) -> tuple[list[Rows], str, int]:
    """The rows that each photo is taught as, by a box of our own on the same encoder."""
    with Box(settings(folder, bundle)) as box:
        for number, photo in enumerate(photos):
            for receipt in box.teach(f"photo {number:02}", [("", photo)]):
                assert receipt.shot
        store = box.reading()
        assert store is not None
        found = {one.name: one.rows for one in store.rows_by_class()}
        return [found[name] for name in sorted(found)], store.space_id, store.dim


def form(photo: bytes) -> tuple[bytes, str]:
    mark = "accrue-kills"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + photo + f"\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


def teach_until_killed(
    client: Client, model: Model, chance: random.Random, photos: list[bytes], rows: list[Rows]
) -> tuple[Model, list[Model], int]:
    """Teaches, removes and undoes. What was acknowledged; what else may be; requests answered."""
    answered, undoable = 0, None
    while True:
        name = f"class {chance.randrange(CLASSES)}"
        full = len(model.rows.get(name, ())) >= MOST_CLASS_SHOTS
        draw = chance.random()
        if undoable is not None and draw < 0.15:
            after = undoable[1]
            call: Callable[[], Any] = lambda entry=undoable[0]: client.ask(  # noqa: E731
                "POST", "/undo", json.dumps({"entry": entry}).encode(), "application/json"
            )
        elif name in model.rows and (full or draw < 0.2):
            after = model.removed(name)
            call = lambda name=name: client.ask("DELETE", f"/classes/{quote(name)}")  # noqa: E731
        else:
            number = chance.randrange(len(photos))
            after = model.taught(name, rows[number])
            body, media = form(photos[number])
            path = f"/classes/{quote(name)}/teach"
            call = lambda path=path, body=body, media=media: client.ask(  # noqa: E731
                "POST", path, body, media
            )
        try:
            answer = call()
        except GONE:
            return model, [after], answered
        for shot in answer.get("shots", ()):
            after.shots[shot] = name
        undoable = None if after is (undoable and undoable[1]) else (answer["entry"]["seq"], model)
        model, answered = after, answered + 1


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_a_service_killed_at_any_instant_has_what_it_acknowledged_and_nothing_else(
    memory_folder: Path, tiny_bundle: Path, photo: Callable[..., np.ndarray], nightly: bool
) -> None:
    photos = [jpeg(photo(seed, kind=seed % 4)) for seed in range(PHOTOS)]
    rows, space, dim = rows_of(photos, memory_folder / "model", tiny_bundle)
    state = memory_folder / "state"
    with Access(state) as access:
        _, token = access.add("kills", "operator", by="tests")
    chance = random.Random(8)
    kills = int(os.environ.get("ACCRUE_KILLS", NIGHTLY_KILLS if nightly else KILLS))
    model, others = Model(space, dim), []
    answered = in_flight = 0
    request_s = 0.02  # about, and then as measured
    services = Services(state, tiny_bundle)
    try:
        for number in range(kills):
            pid, port = services.start()
            client = Client(port, token)
            early = number % EARLY_EVERY == 0  # before it has told what it has
            try:
                with killed_within(pid, chance.random() * request_s if early else None):
                    found = client.ask("GET", "/classes")["digest"]
            except GONE:
                pass
            else:
                model, others = settled(model, others, found, number)
                started = time.perf_counter()
                with killed_within(pid, chance.random() * REQUESTS * request_s):
                    model, others, more = teach_until_killed(client, model, chance, photos, rows)
                if more:
                    request_s += 0.1 * ((time.perf_counter() - started) / more - request_s)
                answered += more
                in_flight += 1
            client.close()
            kill(pid)
            services.reaped()
            if number % LOOK_INSIDE_EVERY == 0 or number == kills - 1:
                inside(state, model, others)
    finally:
        services.close()
    print(f"{kills} kills, {answered} requests acknowledged, {in_flight} kills in mid-teach")
    assert answered > kills / 2
    assert in_flight > kills / 2


def kill(pid: int) -> None:
    """The kill may still be to come where the connection broke first."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def settled(
    model: Model, others: list[Model], found: str, number: int
) -> tuple[Model, list[Model]]:
    """Which of what may be it is."""
    for one in (model, *others):
        if one.digest() == found:
            return one, []
    raise AssertionError(f"kill {number}: {found} is neither what was acknowledged nor one more")


def inside(state: Path, model: Model, others: list[Model]) -> None:
    """The database is sound and has each acknowledged shot."""
    if not (state / "state.db").exists():
        assert not model.rows
        return
    with Store.open(state) as store:
        assert store.check() == []
        there = {shot.id for shot in store.shots()}
    assert any(one.shots.keys() <= there for one in (model, *others))
