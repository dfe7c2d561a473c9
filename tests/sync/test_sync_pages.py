"""The pages about merging and formats say what the code does."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fleet_cases import DEVICES, NOW_MS, SCOPE, exchange, key_for, require_learned, rows
from make_samples import DATA, DIM, ROWS

from accrue.sync import chunks, contribution, parts, signed
from accrue.sync.clock import SKEW_MS, Clock
from accrue.sync.link import Message
from accrue.sync.replica import MemoryLedger
from accrue.sync.topics import BY_NAME, Topics
from accrue.sync.trust import REASONS

REFERENCE = DATA.parents[2] / "docs" / "reference"
MERGE = (REFERENCE / "merge.md").read_text("utf-8")
WIRE = (REFERENCE / "wire.md").read_text("utf-8")
SCENES = re.findall(r"^```merge\n(.*?)^```$", MERGE, flags=re.MULTILINE | re.DOTALL)


class _Scene:
    """Runs the lines of an example on light devices."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.devices: dict[str, MemoryLedger] = {}
        self.subjects: dict[str, str] = {}

    def device(self, name: str) -> MemoryLedger:
        if name not in self.devices:
            device = DEVICES[len(self.devices)]
            clock = Clock(now_ms=lambda: self.now_ms)
            self.devices[name] = MemoryLedger(SCOPE, device, key_for(device), clock)
        return self.devices[name]

    def run(self, line: str) -> None:
        self.now_ms += 1_000
        first, *words = line.split()
        if first == "meet":
            exchange(*(self.device(name) for name in words))
            return
        device, (verb, *rest) = self.device(first), words
        if verb == "sees":
            assert self.seen(device) == sorted(" ".join(rest).split(" / "))
            require_learned(device)
        elif verb == "teaches":
            self.subjects[rest[1]] = device.teach(rest[0], rows(len(self.subjects)))
        elif verb == "merges-homonyms":
            ((one, other),) = device.view().homonyms
            assert device.view().classes[one].name == rest[0]
            device.merge(other, one)
        elif verb == "relabels":
            device.relabel(self.subjects[rest[0]], rest[1])
        elif verb == "takes":
            device.take_away(self.subjects[rest[0]])
        else:
            verbs = {"removes": "remove", "renames": "rename", "merges": "merge", "undoes": "undo"}
            getattr(device, verbs[verb])(*rest)

    def seen(self, device: MemoryLedger) -> list[str]:
        view, names = device.view(), {s: name for name, s in self.subjects.items()}
        roots: dict[str, list[str]] = {
            c: [] for c, one in view.classes.items() if not one.counts_as
        }
        for subject, place in view.placements.items():
            roots[view.root(place.class_id)].append(names[subject])
        return sorted(" ".join([view.classes[c].name, *sorted(s)]) for c, s in roots.items())


@pytest.mark.parametrize("scene", SCENES, ids=range(len(SCENES)))
def test_an_example_of_the_page_ends_as_it_says(scene: str) -> None:
    assert " sees " in scene
    run = _Scene()
    for line in scene.splitlines():
        run.run(line)


def test_there_are_examples() -> None:
    assert len(SCENES) >= 7


def test_the_bytes_of_the_page_are_those_of_the_sample() -> None:
    found = re.search(r"^```hex rows\.part\n(.*?)^```$", WIRE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    data = bytes.fromhex(" ".join(re.split(r"\s{3,}", line)[0] for line in found[1].splitlines()))
    assert data == (DATA / "v1" / "rows.part").read_bytes()
    assert np.array_equal(np.asarray(parts.unpack(data, DIM)), ROWS)
    assert str(tuple(int(v) for v in ROWS[2])) in WIRE


def test_the_reasons_of_the_page_are_those_of_the_code() -> None:
    table = WIRE[WIRE.index("## What a reader refuses") :]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE) == list(REASONS)


@pytest.mark.parametrize(
    ("page", "number"),
    [
        (WIRE, signed.BODY_LIMIT_BYTES),
        (WIRE, contribution.FACTS_LIMIT),
        (WIRE, contribution.GONE_LIMIT),
        (WIRE, contribution.PART_LIMIT_BYTES),
        (WIRE, contribution.CONTENT_LIMIT_BYTES),
        (WIRE, contribution.PARTS_LIMIT),
        (WIRE, contribution.KEY_LIMIT),
        (WIRE, parts.RAW_LIMIT_BYTES),
        (WIRE, chunks.CHUNK_BYTES),
        (WIRE, chunks.CHUNKS_LIMIT),
        (WIRE, SKEW_MS // 1_000),
        (MERGE, signed.BODY_LIMIT_BYTES),
        (MERGE, contribution.GONE_LIMIT),
    ],
)
def test_a_limit_of_the_page_is_the_one_of_the_code(page: str, number: int) -> None:
    assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", page)


def test_the_subjects_of_the_pages_are_those_of_the_code() -> None:
    for page in (MERGE, WIRE):
        told = re.findall(r"`([a-z]+)/[A-Z]+`", page)
        assert set(told) == set(contribution.SUBJECTS)


def test_a_device_can_list_as_many_shots_of_a_class_as_the_page_says() -> None:
    promised = re.search(r"list about ([\d,]+) shots of one class", MERGE)
    assert promised is not None
    count = int(promised[1].replace(",", ""))
    stamp = NOW_MS << 16
    listed = contribution.Part(
        "0" * 64,
        10**6,
        "rows",
        tuple(contribution.Member(f"shot/{i:016}", 1, NOW_MS, stamp + i) for i in range(count)),
    )
    said = contribution.Contribution(SCOPE, DEVICES[0], "0" * 36, stamp * 2, parts=(listed,))
    size = len(signed.canonical(said.to_body()))
    assert 0.9 * signed.BODY_LIMIT_BYTES < size <= signed.BODY_LIMIT_BYTES


def test_a_shot_and_five_take_the_bytes_that_the_page_says() -> None:
    one, five = (len(parts.pack_rows(rows(3, n, 512))) for n in (1, 5))
    told = re.search(r"one view, takes about (\d+) bytes; five in one part about ([\d,]+)", WIRE)
    assert told is not None
    assert abs(one - int(told[1])) < 10
    assert abs(five - int(told[2].replace(",", ""))) < 40


def packets(of: MemoryLedger) -> int:
    """Bytes of the PUBLISH packets that carry what a device says, headers and topics included."""
    topics, total = Topics(of.scope.fleet), 0
    where = {"device": of.device, "set": of.scope.class_set, "space": of.scope.space16}
    for class_id in of.owned():
        own = of.own(class_id)
        topic = topics.path("class", **where, class_id=class_id)
        total += Message(topic, own.envelope, BY_NAME["class"]).packet_bytes
        for sha256, data in own.parts.items():
            for i, chunk in enumerate(chunks.cut(data)):
                topic = topics.path("data", **where, sha256=sha256, chunk=i)
                total += Message(topic, chunk, BY_NAME["data"]).packet_bytes
    return total


def wide(device: str = DEVICES[0]) -> MemoryLedger:
    scope = contribution.Scope("farm", "default", SCOPE.space, 512)
    return MemoryLedger(scope, device, key_for(device), Clock(now_ms=lambda: NOW_MS))


def test_a_class_of_five_shots_takes_less_than_6000_bytes_on_the_wire() -> None:
    """512 values, one view a shot; taught and sent together, and sent one by one."""
    together, one_by_one = wide(), wide()
    for seed in range(5):
        together.teach("hex bolt", rows(seed, 1, 512))
        one_by_one.teach("hex bolt", rows(seed, 1, 512))
        packets(one_by_one)
    figures = packets(together), packets(one_by_one)
    print("bytes of a class of five shots, sent together and one by one:", *figures)
    assert figures[0] < 5_500
    assert figures[1] < 6_000
