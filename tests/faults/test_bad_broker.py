"""A broker that lies and floods: the device goes on, and catches up with an honest one."""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from accrue.service.daemon import Device
from accrue.service.settings import Settings
from accrue.sync import link
from accrue.sync.topics import ROOT, TOPICS
from fleet_world import World

DEADLINE_S = 120.0
FLOOD_BYTES = 300 * 2**20
GROWTH_MB = 60.0  # of resident memory: of a device, whatever it is told
CONNECT, PUBLISH, SUBSCRIBE, PINGREQ = 1, 3, 8, 12
EXAMPLE = {
    "device": "deck0000000a",
    "set": "default",
    "space": "5eed" * 4,
    "class": "cc3f499f-c10d-509d-b57c-e6c5a79b6775",
    "sha256": "ab" * 32,
    "chunk": "0",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError(what)


def varint(n: int) -> bytes:
    out = b""
    while True:
        n, rest = divmod(n, 128)
        out += bytes([rest | (128 if n else 0)])
        if not n:
            return out


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def accepted(reason: int = 0, properties: bytes = b"") -> bytes:
    """CONNACK (MQTT 5, 3.2)."""
    return packet(0x20, bytes([0, reason]) + varint(len(properties)) + properties)


def publish(topic: bytes, payload: bytes, *, qos: int = 0, retained: bool = True) -> bytes:
    head = struct.pack(">H", len(topic)) + topic + (b"\0\1" if qos else b"") + b"\0"
    return packet(0x30 | 2 * qos | retained, head + payload)


class Client:
    """The device, as the broker sees it."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        connection.settimeout(5)
        self.file = connection.makefile("rb")
        self.sent = 0

    def read(self) -> tuple[int, bytes]:
        """Type and body of the next packet; type 0 where there is none."""
        first = self.file.read(1)
        if not first:
            return 0, b""
        size = shift = 0
        while True:
            (byte,) = self.file.read(1)
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first[0] >> 4, self.file.read(size)

    def serve(self, *, deaf: bool = False, most: int = 50, wait_s: float = 1.5) -> None:
        """Answers for a while as a broker would, or (deaf) not at all."""
        self.connection.settimeout(wait_s)
        with suppress(TimeoutError, OSError, ValueError):
            for _ in range(most):
                kind, body = self.read()
                if kind == 0:
                    return
                if deaf:
                    continue
                if kind == SUBSCRIBE:
                    self.send(packet(0x90, body[:2] + b"\0" + b"\1" * filters(body)))
                elif kind == PUBLISH:
                    at = 2 + struct.unpack_from(">H", body)[0]
                    self.send(packet(0x40, body[at : at + 2]))  # and keeps nothing of it
                elif kind == PINGREQ:
                    self.send(packet(0xD0, b""))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)


def filters(subscribe: bytes) -> int:
    """How many a SUBSCRIBE asks for (MQTT 5, 3.8)."""
    at, found = 3 + subscribe[2], 0
    while at < len(subscribe):
        at += 3 + struct.unpack_from(">H", subscribe, at)[0]
        found += 1
    return found


def paths() -> list[bytes]:
    """A topic of each kind."""
    found = []
    for topic in TOPICS:
        path = topic.path
        for field, value in EXAMPLE.items():
            path = path.replace(f"<{field}>", value)
        found.append(f"{ROOT}/plant/{path}".encode())
    return found


def junk(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 20, 300, 5000]))


def hangs_up(client: Client) -> None:
    """At once."""


def refuses(client: Client) -> None:
    client.send(accepted(0x87))


def refuses_without_a_reason(client: Client) -> None:
    client.send(accepted(0xFF))


def speaks_another_language(client: Client) -> None:
    client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.serve(deaf=True, wait_s=0.3)


def answers_nothing(client: Client) -> None:
    client.send(accepted())
    client.serve(deaf=True)


def takes_no_packet(client: Client) -> None:
    """Maximum packet size 1, receive maximum 1, no retained messages, no wildcards."""
    limits = b"\x27" + struct.pack(">I", 1) + b"\x21\0\1" + b"\x25\0" + b"\x28\0"
    client.send(accepted(properties=limits))
    client.serve()


def refuses_every_subscription(client: Client) -> None:
    client.send(accepted())
    kind, body = client.read()
    while kind not in (0, SUBSCRIBE):
        kind, body = client.read()
    if kind:
        client.send(packet(0x90, body[:2] + b"\0" + b"\x87" * filters(body)))
    client.serve()


def acknowledges_what_it_drops(client: Client) -> None:
    client.send(accepted())
    client.serve(wait_s=2.5)


def acknowledges_what_was_never_sent(client: Client) -> None:
    client.send(accepted())
    for number in range(1, 400):
        client.send(packet(0x40, struct.pack(">H", number)))
        client.send(packet(0x90, struct.pack(">H", number) + b"\0\1"))
    client.serve()


def tells_nonsense_on_every_topic(client: Client) -> None:
    chance = random.Random(1)
    client.send(accepted())
    threading.Thread(target=client.serve, daemon=True).start()
    for _ in range(40):
        for path in paths():
            client.send(publish(path, junk(chance), retained=chance.random() < 0.7))
    time.sleep(1)


def tells_of_topics_that_are_none(client: Client) -> None:
    chance = random.Random(2)
    client.send(accepted())
    for topic in (b"", b"#", b"accrue/v1/+/roster", b"\xff\xfe", b"a\0b", b"/" * 60_000):
        client.send(publish(topic, junk(chance)))
    client.serve()


def promises_a_packet_without_end(client: Client) -> None:
    client.send(accepted())
    client.send(b"\x31" + b"\xff\xff\xff\x7f" + b"\0\x10accrue/v1/plant")
    client.serve(deaf=True)


def sends_what_is_no_packet(client: Client) -> None:
    client.send(accepted())
    client.send(random.Random(3).randbytes(20_000))
    client.serve(deaf=True)


def promises_a_length_of_five_bytes(client: Client) -> None:
    client.send(accepted())
    client.send(b"\x31\xff\xff\xff\xff\xff\x7f")
    client.serve(deaf=True)


def floods(client: Client) -> None:
    """Hundreds of megabytes, as fast as they are taken."""
    chance = random.Random(4)
    client.send(accepted())
    payload, where = chance.randbytes(200_000), paths()
    while client.sent < FLOOD_BYTES:
        client.send(publish(chance.choice(where), payload[: chance.choice([100, 5_000, 200_000])]))


LIES = (
    *(hangs_up, refuses, refuses_without_a_reason, speaks_another_language, answers_nothing),
    *(takes_no_packet, refuses_every_subscription, acknowledges_what_it_drops),
    *(acknowledges_what_was_never_sent, tells_nonsense_on_every_topic),
    *(tells_of_topics_that_are_none, promises_a_packet_without_end, sends_what_is_no_packet),
    *(promises_a_length_of_five_bytes, floods),
)


class Liar:
    """In the place of the broker, with its certificate: tells each lie once, then hangs up."""

    def __init__(self, world: World) -> None:
        self.told: list[str] = []
        self.most = 0  # bytes that were taken by the device in one connection
        folder = world.configuration.parent
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._listener = socket.create_server(("127.0.0.1", world.port))
        self._listener.settimeout(0.2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        lies = iter(LIES)
        while not self._over.is_set():
            with suppress(OSError):
                plain, _ = self._listener.accept()
                plain.settimeout(5)
                with plain, self._tls.wrap_socket(plain, server_side=True) as connection:
                    client = Client(connection)
                    if client.read()[0] != CONNECT or (lie := next(lies, None)) is None:
                        continue
                    with client.file, suppress(OSError):  # the device hung up first
                        lie(client)
                    self.most = max(self.most, client.sent)
                    self.told.append(lie.__name__)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_device_outlives_a_broker_that_lies_and_floods(
    world: World,
    tmp_path: Path,
    tiny_bundle: Path,
    photo_classes: Callable[..., dict[str, list[Path]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "backoff_s", lambda *_: 0.05)
    for key in ("DUPLICATES", "BLUR"):
        monkeypatch.setenv(f"ACCRUE_{key}", "1")
    photos = next(iter(photo_classes("photos", classes=1, each=40).values()))
    settings = Settings(
        state=tmp_path / "dock-1", bundle=tiny_bundle, duplicates=1.0, blur=1.0, views=2
    )
    with Device(settings, cameras=()) as device:
        world.join("dock-1", "dock-2")
        until(lambda: (v := device.fleet()) and v["connected"], "it does not connect")
        with device.writing("eva") as box:
            assert next(iter(box.teach("bolt", [("0", photos[0])]))).shot
        until(lambda: (v := device.fleet()) and v["sent"] and not v["unsent"], "nothing is sent")
        before_mb, threads = resident_mb(), threading.active_count()
        world.stop_broker()
        liar = Liar(world)
        taught, peak_mb = 1, before_mb
        try:
            while len(liar.told) < len(LIES):
                if taught < len(photos):  # it is taught all the while, and answers
                    with device.writing("eva") as box:
                        receipts = box.teach("bolt", [(str(taught), photos[taught])])
                        assert next(iter(receipts)).shot
                        taught += 1
                    with device.reading() as box:
                        assert next(iter(box.predict([("", photos[0])]))).label == "bolt"
                count = len(liar.told)
                until(lambda n=count: len(liar.told) > n, f"after {liar.told}")
                peak_mb = max(peak_mb, resident_mb())
        finally:
            liar.close()
        assert liar.told == [lie.__name__ for lie in LIES]
        assert liar.most >= FLOOD_BYTES
        assert taught > len(LIES) // 2
        assert peak_mb - before_mb < GROWTH_MB, (before_mb, peak_mb)
        assert threading.active_count() <= threads
        world.start_broker()
        until(lambda: (v := device.fleet()) and v["connected"], "it does not come back")
        world.sync("dock-2")
        until(
            lambda: (v := device.fleet()) and v["settled"] and not v["unsent"],
            f"it does not settle: {device.fleet()}",
        )
        world.sync("dock-2")
        assert world.classes("dock-2") == {"bolt": taught}
        with device.reading() as box:
            assert world.digest("dock-2") == box.learned().state.digest()
