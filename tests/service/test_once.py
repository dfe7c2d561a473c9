"""`once`: worked out when first asked for, and nobody waits for another object's value."""

from __future__ import annotations

import threading

from accrue.service.once import once


class Slow:
    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate, self.times = gate, 0

    @once
    def value(self) -> int:
        """What is asked for."""
        self.times += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        return 7


def test_it_is_worked_out_once_and_keeps_its_documentation() -> None:
    slow = Slow()
    assert (slow.value, slow.value, slow.times) == (7, 7, 1)
    assert isinstance(Slow.value, once)
    assert Slow.value.__doc__ == "What is asked for."


def test_who_asks_one_object_does_not_wait_for_another() -> None:
    gate = threading.Event()
    waiting = threading.Thread(target=lambda: Slow(gate).value)
    waiting.start()
    assert Slow().value == 7  # with functools.cached_property of Python 3.11 this never returns
    gate.set()
    waiting.join()
