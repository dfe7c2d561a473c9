"""Content in pieces below the broker's maximum packet size.

A chunk is 4 bytes, the number of all chunks (big-endian), and data. Content is found by its SHA-256,
so chunks need no order of arrival and no signature.
"""

from __future__ import annotations

import hashlib

from accrue.sync.link import Limits

HEADER_BYTES = 4
CHUNK_BYTES = 96 * 1024  # at most: it fits in the 128 KiB of the smallest brokers
OVERHEAD_BYTES = 1024  # of a packet: topic, properties, header; more than any topic of ours needs
CHUNKS_LIMIT = 65_535


def chunk_bytes(limits: Limits) -> int:
    """Payload bytes of a chunk, header included, for this broker."""
    return max(HEADER_BYTES + 1, min(CHUNK_BYTES, limits.packet_bytes - OVERHEAD_BYTES))


def count(size: int, limits: Limits) -> int:
    """Chunks of content of so many bytes."""
    return max(1, -(-size // (chunk_bytes(limits) - HEADER_BYTES)))


def split(data: bytes, limits: Limits) -> list[bytes]:
    total, step = count(len(data), limits), chunk_bytes(limits) - HEADER_BYTES
    head = total.to_bytes(HEADER_BYTES, "big")
    return [head + data[i * step : (i + 1) * step] for i in range(total)]


class Assembly:
    """Content as its chunks come in, in any order, twice or not at all.

    Args:
        limit_bytes: of the content; what is larger is never kept.
    """

    def __init__(self, sha256: str, limit_bytes: int) -> None:
        self.sha256 = sha256
        self._limit = limit_bytes
        self._total = 0
        self._pieces: dict[int, bytes] = {}
        self._size = 0

    def add(self, index: int, payload: bytes) -> bytes | None:
        """The content once it is whole and has its hash; None until then."""
        total = int.from_bytes(payload[:HEADER_BYTES], "big")
        piece = payload[HEADER_BYTES:]
        if len(payload) < HEADER_BYTES or not index < total <= CHUNKS_LIMIT:
            return None
        if total != self._total:  # written anew for a broker with other limits
            self._total, self._pieces, self._size = total, {}, 0
        self._size += len(piece) - len(self._pieces.get(index, b""))
        if self._size > self._limit:
            self._total, self._pieces, self._size = 0, {}, 0
            return None
        self._pieces[index] = piece
        if len(self._pieces) < total:
            return None
        data = b"".join(self._pieces[i] for i in range(total))
        if hashlib.sha256(data).hexdigest() == self.sha256:
            return data
        self._total, self._pieces, self._size = 0, {}, 0
        return None
