"""What a run does: which devices there are, who teaches what and when, all from one seed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.learn.statistics import Rows, quantise
from accrue.store.names import class_id
from accrue.sync.contribution import Scope

FLEET = "simulated"
CLASS_SET = "default"
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Teach:
    """One shot: `at_s` after the start of teaching, by the device with this index."""

    at_s: float
    device: int
    class_index: int
    shot: int


@dataclass(frozen=True)
class Faults:
    """Attributes:
    kills: times that the broker is killed and started again while there is teaching.
    partition: share of the devices that is cut off for the middle half of the teaching.
    duplicate: share of PUBLISH packets that the network delivers twice.
    slow: share of the devices with a slow link. slow_bytes_per_s, slow_delay_s: of it.
    down_s: how long the broker is down after a kill.
    """

    kills: int = 0
    partition: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    slow_bytes_per_s: float = 64_000.0
    slow_delay_s: float = 0.05
    down_s: float = 0.5

    @property
    def need_network(self) -> bool:
        return bool(self.partition or self.duplicate or self.slow)


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        shots: of each class. teachers: devices among which the shots of a class are divided.
        rate: teaches a second. full: devices with a database, the others keep all in memory.
        share: light devices of a process share what one of them has checked (`inbox.Cache`).
    """

    devices: int
    classes: int
    shots: int
    teachers: int = 1
    dim: int = 512
    rate: float = 100.0
    full: int = 0
    processes: int = 2
    relay: bool = True
    share: bool = True
    tls: bool = False
    seed: int = 0
    faults: Faults = field(default_factory=Faults)

    @property
    def scope(self) -> Scope:
        space = hashlib.sha256(f"simulated space {self.dim}".encode()).hexdigest()
        return Scope(FLEET, CLASS_SET, space, self.dim)

    @property
    def teaching_s(self) -> float:
        return self.classes * self.shots / self.rate

    def device_ids(self) -> list[str]:
        rng = random.Random(f"devices {self.seed}")
        found: dict[str, None] = {}
        while len(found) < self.devices:
            found["".join(rng.choices(_CROCKFORD, k=12))] = None
        return list(found)

    def teaches(self) -> list[Teach]:
        """All of them, evenly spaced, the classes in random order."""
        rng = random.Random(f"teaches {self.seed}")
        who = {
            c: rng.sample(range(self.devices), min(self.teachers, self.devices))
            for c in range(self.classes)
        }
        pairs = [(c, s) for c in range(self.classes) for s in range(self.shots)]
        rng.shuffle(pairs)
        return [
            Teach(i / self.rate, who[c][s % len(who[c])], c, s) for i, (c, s) in enumerate(pairs)
        ]

    def rows(self, class_index: int, shot: int) -> Rows:
        """One view of one shot: int16 (1, dim), near its class and apart from the others."""
        centre = np.random.default_rng([self.seed, class_index]).normal(size=self.dim)
        noise = np.random.default_rng([self.seed, class_index, shot]).normal(size=self.dim)
        return quantise((centre + 0.7 * noise)[None])

    def kind_of_link(self, device: int) -> str:
        """The kind of network link (`network.KINDS`): some can be cut, some are slow."""
        place = random.Random(f"links {self.seed} {device}").random()
        if place < self.faults.partition:
            return "cut"
        return "slow" if place < self.faults.partition + self.faults.slow else "plain"


def class_name(class_index: int) -> str:
    return f"part {class_index}"


def id_of_class(class_index: int) -> str:
    return class_id(CLASS_SET, class_name(class_index))


def private_key(device: str, seed: int) -> Ed25519PrivateKey:
    """Of a simulated device: made from the seed, so that every process knows it. No secret."""
    return Ed25519PrivateKey.from_private_bytes(
        hashlib.sha256(f"simulated key {seed} {device}".encode()).digest()
    )


@dataclass(frozen=True)
class Place:
    """Where a device connects to, and where a full one keeps its state."""

    ports: dict[str, int]
    password: str
    ca: Path | None
    folder: Path
