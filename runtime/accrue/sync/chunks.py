"""Content in pieces: cut for a broker's largest packet, and put together in bounded memory.

A chunk is the number of all chunks (u32, little-endian) and its bytes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from accrue.errors import Rejected

CHUNK_BYTES = 96 * 2**10  # fits the strictest brokers, header and topic included
CHUNKS_LIMIT = 65_536
HEADER_BYTES = 4
OVERHEAD_BYTES = 200  # what a chunk costs in memory beside its bytes
_HEAD = struct.Struct("<I")

K = TypeVar("K", bound=Hashable)


def cut(data: bytes, size: int = CHUNK_BYTES) -> list[bytes]:
    """The chunks of at most `size` bytes each, their header included.

    Raises:
        ValueError: so small a size that there would be more than 65,536.
    """
    room = size - HEADER_BYTES
    total = max(1, -(-len(data) // room)) if room > 0 else CHUNKS_LIMIT + 1
    if total > CHUNKS_LIMIT:
        raise ValueError(f"{len(data):,} bytes in chunks of {size}; at most {CHUNKS_LIMIT:,}")
    head = _HEAD.pack(total)
    return [head + data[i * room : (i + 1) * room] for i in range(total)]


@dataclass
class _Partial:
    total: int
    chunks: dict[int, bytes] = field(default_factory=dict)
    size: int = 0


class Assembly(Generic[K]):
    """Chunks on their way to be whole.

    Where there are more bytes than `memory`, what was touched longest ago is given up.

    Args:
        memory: bytes held at most, overhead included. limit: bytes of one content at most.

    Attributes:
        used: bytes held now. given_up: contents given up so far.
    """

    def __init__(self, memory: int, limit: int) -> None:
        self.memory = memory
        self.limit = limit
        self.used = 0
        self.given_up = 0
        self._partials: OrderedDict[K, _Partial] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._partials

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, key: K, index: int, payload: bytes) -> bytes | None:
        """The whole content, once this was its last chunk; then nothing of it is held any more.

        A chunk that came before is the same chunk; one of another cut begins anew.

        Raises:
            Rejected: malformed, or oversized, which drops the content.
        """
        if len(payload) < HEADER_BYTES:
            raise Rejected(f"chunk of {len(payload)} bytes; expected a header", reason="malformed")
        (total,) = _HEAD.unpack_from(payload)
        if not 1 <= total <= CHUNKS_LIMIT or not 0 <= index < total:
            raise Rejected(f"chunk {index} of {total:,}", reason="malformed")
        data = payload[HEADER_BYTES:]
        partial = self._partials.get(key)
        if partial is not None and partial.total != total:
            self.drop(key)
            partial = None
        if partial is None:
            if total == 1:
                self._require_size(len(data))
                return data
            partial = self._partials[key] = _Partial(total)
        elif index in partial.chunks:
            return None
        if partial.size + len(data) > self.limit:
            self.drop(key)
        self._require_size(partial.size + len(data))
        partial.chunks[index] = data
        partial.size += len(data)
        self.used += len(data) + OVERHEAD_BYTES
        self._partials.move_to_end(key)
        if len(partial.chunks) == total:
            whole = b"".join(partial.chunks[i] for i in range(total))
            self.drop(key)
            return whole
        self.shrink(self.memory)
        return None

    def shrink(self, memory: int) -> None:
        """Gives up contents until at most `memory` bytes are held."""
        while self.used > memory and self._partials:
            self.drop(next(iter(self._partials)))
            self.given_up += 1

    def drop(self, key: K) -> None:
        partial = self._partials.pop(key, None)
        if partial is not None:
            self.used -= partial.size + OVERHEAD_BYTES * len(partial.chunks)

    def hand_over(self, key: K, other: Assembly[K]) -> None:
        """Moves what is there of a content into another assembly, over what that has of it."""
        partial = self._partials.pop(key, None)
        if partial is not None:
            other.drop(key)
            cost = partial.size + OVERHEAD_BYTES * len(partial.chunks)
            self.used -= cost
            other.used += cost
            other._partials[key] = partial

    def _require_size(self, size: int) -> None:
        if size > self.limit:
            raise Rejected(
                f"content of more than {self.limit:,} bytes", reason="oversized", found=size
            )
