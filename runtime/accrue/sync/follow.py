"""How a device chooses between every device's own topics and a relay's batches.

Pure: it does no I/O and reads no clock. The exchange tells it what happened and asks `direct` and
`snapshots`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from accrue.errors import FormatError
from accrue.sync.batch import Batch, Message

RESUME_S = 10.0  # over this a fleet spreads its snapshots when a relay is lost, or a gap is seen
# A broker drops what a slow reader leaves in its queue, and tells nobody. The retained messages
# have it still, so they are read again from time to time.
REFRESH_S = 6 * 3600.0
SILENCE_S = 20.0  # of a relay that says every 5 s that it is there; then it is held to be lost


class Follow:
    """Whether to listen to the devices directly, and what a batch holds.

    After each connect a device listens directly: the retained messages are the snapshot. Once
    that is complete, and a relay says that it is ready, the relay's batches are enough, because
    both subscriptions stood together for a while. A gap in the numbers, another epoch or the
    relay's end make it listen directly again, after a random wait.

    Args:
        spread: a random number of seconds from 0 to the argument.
    """

    def __init__(self, spread: Callable[[float], float] | None = None) -> None:
        self._spread = spread or (lambda most: random.uniform(0, most))
        self._relay: str | None = None  # epoch of the relay that says that it is ready
        self._next: int | None = None  # number of its next batch, once one was heard
        self._complete = False  # the snapshot, since direct listening began
        self._snapshot_at: float | None = None
        self._heard_at = 0.0  # the relay, of itself or in a batch
        self._direct = True
        self.snapshots = 0
        self.gaps = 0
        self.batches = 0

    @property
    def relay(self) -> str | None:
        """Epoch of the relay that is ready."""
        return self._relay

    @property
    def following(self) -> bool:
        """Whether the relay alone is listened to."""
        return not self._direct

    def connected(self, now: float) -> None:
        """A new connection, without what was missed: everything is asked for again."""
        self._relay, self._next = None, None
        self._begin(now)

    def direct(self, now: float) -> bool:
        """Whether to be subscribed to the devices' own topics now. Whenever `snapshots` has
        grown, they are to be subscribed to anew, which makes the broker send what it retains."""
        if self._snapshot_at is not None and now >= self._snapshot_at:
            self._begin(now)
        if self._relay is not None and now - self._heard_at > SILENCE_S:
            self._relay = None
            self._missed(now)
        if self._direct and self._complete and self._relay is not None:
            self._direct = False
        return self._direct

    def look_again(self, now: float) -> None:
        """Something else was lost: takes a snapshot with the next call of `direct`."""
        self._snapshot_at = now

    def snapshot_complete(self) -> None:
        """All that was retained when direct listening began has been heard."""
        self._complete = True

    def relay_state(
        self, epoch: str, ready: bool, now: float, *, last: int = 0, retained: bool = False
    ) -> None:
        """What `relay/state` says. An end that another epoch tells of (a late last will) is not
        the end of the relay that is followed.

        Args:
            last: number of the last batch that it sent to this class set and space.
            retained: the broker kept it. A relay that says that it is ready counts only when it
                says so now: with a broker that was restarted it may not be back yet.
        """
        if retained:
            return
        if ready:
            self._heard_at = now
        if ready and epoch != self._relay:
            self._relay, self._next = epoch, None
            self._missed(now)
        elif not ready and epoch == self._relay:
            self._relay = None
            self._missed(now)
        elif ready and self._next is not None and last >= self._next:
            self._next = last + 1
            self.gaps += 1
            self._missed(now)

    def batch(self, payload: bytes, now: float) -> tuple[Message, ...]:
        """The messages in a batch; nothing where it is another relay's, or came before.

        Raises:
            FormatError: no batch. What it should have held comes with a snapshot.
        """
        try:
            found = Batch.from_bytes(payload)
        except FormatError:
            self.gaps += 1
            self._missed(now)
            raise
        if found.epoch != self._relay or (self._next is not None and found.number < self._next):
            return ()
        if self._next is not None and found.number > self._next:
            self.gaps += 1
            self._missed(now)
        self._next, self._heard_at = found.number + 1, now
        self.batches += 1
        return found.messages

    def _missed(self, now: float) -> None:
        """While listening directly nothing is missed."""
        if not self._direct:
            soon = now + self._spread(RESUME_S)
            self._snapshot_at = min(soon, self._snapshot_at or soon)

    def _begin(self, now: float) -> None:
        self._direct, self._complete = True, False
        self._snapshot_at = now + REFRESH_S / 2 + self._spread(REFRESH_S / 2)
        self.snapshots += 1
