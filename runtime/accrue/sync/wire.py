"""The socket under a link, with buffers on both sides."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable

READ_BYTES = 64 * 1024


class Wire:
    """The connected socket as paho sees it: reads and writes go through buffers, and are counted.

    paho reads a packet's first bytes one by one and writes each packet by itself; from a buffer
    both cost next to nothing.
    """

    def __init__(self, sock: socket.socket, on_close: Callable[[], None]) -> None:
        self._sock = sock
        self._on_close = on_close
        self._input = memoryview(b"")
        self._output = bytearray()
        self._error: OSError | None = None
        self.at_end = False
        self.closed = False
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def has_input(self) -> bool:
        return len(self._input) > 0

    @property
    def waiting_bytes(self) -> int:
        return len(self._output)

    def fill(self) -> bool:
        """Reads what is there, up to 64 KiB or so. Returns whether there may be more.

        TLS gives one record at a time, and brokers make a record of each message.
        """
        pieces = [bytes(self._input)] if self._input else []
        size, more = 0, True
        while more and size < READ_BYTES:
            try:
                data = self._sock.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                more = False
            except OSError as error:
                self._error, self.at_end, more = error, True, False
            else:
                self.at_end = not data
                more = bool(data)
                size += len(data)
                pieces.append(data)
        self._input = memoryview(b"".join(pieces))
        self.received_bytes += size
        return more

    def flush(self) -> None:
        """Writes what the socket takes."""
        while self._output and not self.closed:
            try:
                count = self._sock.send(self._output[:READ_BYTES])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._error, self.at_end = error, True
                self.close()
                return
            del self._output[:count]
            self.sent_bytes += count

    def drain(self, timeout_s: float = 1.0) -> None:
        """Writes all, for a goodbye; gives up after a while."""
        with selectors.DefaultSelector() as selector:
            if self.closed:
                return
            selector.register(self._sock, selectors.EVENT_WRITE)
            until = time.monotonic() + timeout_s
            self.flush()
            while self._output and not self.closed and time.monotonic() < until:
                selector.select(0.1)
                self.flush()

    def recv(self, size: int) -> bytes:
        if not self._input:
            if self._error is not None:
                raise self._error
            if self.at_end:
                return b""
            raise BlockingIOError
        data = bytes(self._input[:size])
        self._input = self._input[size:]
        return data

    def send(self, data: bytes | bytearray) -> int:
        self._output += data
        return len(data)

    def close(self) -> None:
        """Called by paho too, which writes its DISCONNECT and closes at once."""
        if not self.closed:
            if self._output and self._error is None:
                self.drain(0.2)
            self.closed = True
            self._on_close()
            self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(False)
