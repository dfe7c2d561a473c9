"""The network between devices and broker, with faults: a proxy on loopback that can cut links,
slow them down and deliver MQTT messages twice. One listening port for each kind of link."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

PLAIN, CUT, SLOW = "plain", "cut", "slow"
KINDS = (PLAIN, CUT, SLOW)
READ_BYTES = 64 * 1024
_PUBLISH = 3  # packet type in the upper four bits of the first byte


@dataclass(frozen=True)
class Faults:
    """What the network does.

    Attributes:
        duplicate: share of PUBLISH packets that are delivered twice, in either direction.
        delay_s, bytes_per_s: of slow links, each way; 0 bytes a second: as fast as it goes.
        opaque: TLS passes through, in which no packets can be told apart.
    """

    duplicate: float = 0.0
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    opaque: bool = False


@dataclass
class Network:
    """A running proxy: the port of each kind of link, and a switch for those that can be cut."""

    ports: dict[str, int]
    _pipe: Connection

    def cut(self, on: bool) -> None:
        self._pipe.send("cut" if on else "heal")
        self._pipe.recv()

    def counted(self) -> dict[str, int]:
        self._pipe.send("count")
        found: dict[str, int] = self._pipe.recv()
        return found


@contextmanager
def network(broker_port: int, faults: Faults, seed: int) -> Iterator[Network]:
    """A proxy in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_main, args=(there, broker_port, faults, seed), daemon=True)
    process.start()
    try:
        yield Network(here.recv(), here)
        here.send("stop")
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _main(pipe: Connection, broker_port: int, faults: Faults, seed: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Proxy(broker_port, faults, seed).run(pipe))


class _Proxy:
    def __init__(self, broker_port: int, faults: Faults, seed: int) -> None:
        self._broker_port = broker_port
        self._faults = faults
        self._random = random.Random(seed)
        self._is_cut = False
        self._open: dict[str, set[asyncio.StreamWriter]] = {kind: set() for kind in KINDS}
        self._counts = {"publishes": 0, "duplicated": 0, "connections": 0, "refused": 0}

    async def run(self, pipe: Connection) -> None:
        servers = {
            kind: await asyncio.start_server(
                lambda r, w, kind=kind: self._link(kind, r, w), "127.0.0.1", 0, backlog=4096
            )
            for kind in KINDS
        }
        pipe.send({kind: server.sockets[0].getsockname()[1] for kind, server in servers.items()})
        loop = asyncio.get_running_loop()
        wanted: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(pipe.fileno(), lambda: wanted.put_nowait(pipe.recv()))
        while (word := await wanted.get()) != "stop":
            if word == "count":
                pipe.send(dict(self._counts))
                continue
            self._is_cut = word == "cut"
            if self._is_cut:
                for writer in list(self._open[CUT]):
                    writer.transport.abort()
            pipe.send({})
        loop.remove_reader(pipe.fileno())

    async def _link(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if kind == CUT and self._is_cut:
            self._counts["refused"] += 1
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        self._counts["connections"] += 1
        both = {writer, up_writer}
        self._open[kind] |= both
        tasks = [
            asyncio.create_task(self._pump(kind, reader, up_writer)),
            asyncio.create_task(self._pump(kind, up_reader, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._open[kind] -= both
            for one in both:
                one.transport.abort()

    async def _pump(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                if self._faults.opaque:
                    packet = await reader.read(READ_BYTES)
                    if not packet:
                        return
                else:
                    packet = await _packet(reader)
                if kind == SLOW:
                    rate = self._faults.bytes_per_s
                    await asyncio.sleep(
                        self._faults.delay_s + (len(packet) / rate if rate else 0.0)
                    )
                writer.write(packet)
                if not self._faults.opaque and packet[0] >> 4 == _PUBLISH:
                    self._counts["publishes"] += 1
                    if self._random.random() < self._faults.duplicate:
                        self._counts["duplicated"] += 1
                        writer.write(packet)
                await writer.drain()


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One MQTT control packet (MQTT 5, section 2.1): type, length in 1 to 4 bytes, the rest."""
    head = bytearray(await reader.readexactly(1))
    length = 0
    for place in range(4):
        byte = (await reader.readexactly(1))[0]
        head.append(byte)
        length |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            break
    return bytes(head) + await reader.readexactly(length)
