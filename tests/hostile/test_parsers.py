"""Every parser of what comes from elsewhere, given what is almost right.

Each mutant is read or refused with an error of ours, in bounded time and memory: no other
exception, no hang, no line break in the message. What a checksum or a signature guards is mutated
inside, too, and sealed again, as somebody would who makes it on purpose. A mutant that ever broke
something is kept in tests/data/hostile/<parser>/ and tried each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_cases import SCOPE, TRUST, key_for
from mutations import SIGNABLE, bytes_of, document_of
from test_documents import DEVICE_KEY, DEVICE_PUBLIC, DOCK, HEAD, OWNER, PUBLIC

import accrue.sync.enrol as enrol
from accrue.bundle import Bundle
from accrue.errors import AccrueError
from accrue.learn.state import State
from accrue.learn.statistics import Statistics
from accrue.service.settings import load_settings
from accrue.store import restore
from accrue.sync import parts
from accrue.sync.archive import read_set
from accrue.sync.batch import Batch, read_state
from accrue.sync.content import Pointer
from accrue.sync.identity import Identity, Membership
from accrue.sync.inbox import open_contribution
from accrue.sync.manifest import Coming, Manifest, ManifestHead
from accrue.sync.presence import Presence
from accrue.sync.report import Report
from accrue.sync.roster import KeyWindow, Member, Roster, RosterTrust, open_roster
from accrue.sync.signed import canonical, parse, seal, split
from accrue.vision.decode import decode

DATA = Path(__file__).parents[1] / "data"
KEPT = DATA / "hostile"
MUTANTS, NIGHTLY_MUTANTS = int(os.environ.get("ACCRUE_MUTANTS", "120")), 20_000
MEMORY_BYTES, CPU_S = 1 << 30, 5.0  # that a single mutant may take
JOINING = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
KNOWN = RosterTrust(Roster("plant", 1, PUBLIC, {DOCK: Member("d", (KeyWindow(DEVICE_PUBLIC),))}))
DOCUMENTS = json.loads((DATA / "documents" / "golden.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Parser:
    """Reads bytes. `samples`: good ones. `mutant`: of one of them; by default of its bytes."""

    read: Callable[[bytes, Path], object]
    samples: Callable[[], list[bytes]]
    mutant: Callable[[bytes, Random], bytes] = bytes_of
    costs: int = 1  # as many times the usual


def files(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted(DATA.glob(pattern))]


def in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes, Path], object]:
    def reading(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return reading


# ---- what a checksum guards: taken apart, changed, sealed again ---------------------------------


def into_new_state(file: Path) -> None:
    state = file.parent / "restored"
    try:
        restore(file, state)
        from accrue.store import Store

        with Store.open(state) as store:
            store.check()
            store.classes()
            store.rows_by_class()
            store.history()
            store.undo()
    finally:
        shutil.rmtree(state, ignore_errors=True)


def backup_mutant(good: bytes, chance: Random) -> bytes:
    """Another header over the same database, or another database under a header that fits."""
    _, version, length = struct.unpack_from("<8sII", good)
    header = json.loads(good[16 : 16 + length])
    payload = good[16 + length + 32 :]
    if chance.random() < 0.3:
        header = document_of(header, chance)
    else:
        database = bytes_of(zlib.decompress(payload), chance)
        payload = zlib.compress(database, 1)
        header |= {
            "database_bytes": len(database),
            "payload_bytes": len(payload),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
        }
    try:
        text = json.dumps(header, sort_keys=True).encode()
    except RecursionError:
        text = b"[" * 30_000
    head = struct.pack("<8sII", good[:8], version, len(text)) + text
    return head + hashlib.sha256(head).digest() + payload


def sealed_mutant(kind: Any, key: Ed25519PrivateKey) -> Callable[[bytes, Random], bytes]:
    """Another body, signed by who may sign it."""

    def mutant(good: bytes, chance: Random) -> bytes:
        if chance.random() < 0.1:
            return bytes_of(good, chance)
        try:
            return seal(kind, document_of(parse(split(good)[1]), chance, SIGNABLE), key)
        except (AccrueError, ValueError):  # more than may be signed at all
            return good

    return mutant


def canonical_mutant(good: bytes, chance: Random) -> bytes:
    if chance.random() < 0.2:
        return bytes_of(good, chance)
    return canonical(document_of(json.loads(good), chance, SIGNABLE))


def json_mutant(good: bytes, chance: Random) -> bytes:
    if chance.random() < 0.2:
        return bytes_of(good, chance)
    try:
        return json.dumps(document_of(json.loads(good), chance)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b'{"a":' * 30_000


def yaml_mutant(good: bytes, chance: Random) -> bytes:
    if chance.random() < 0.4:
        return bytes_of(good, chance)
    found = document_of(yaml.safe_load(good), chance, SIGNABLE)
    return yaml.safe_dump(found, allow_unicode=True).encode("utf-8", "surrogatepass")


def roster(data: bytes, _: Path) -> object:
    """The content below a head that fits, so that its fields are reached."""
    packed = zlib.compress(data, 1)
    body = {"accrue": "roster/1", "fleet": "plant", "version": 7, **Pointer.to(packed).to_body()}
    return open_roster(seal("roster", body, OWNER), packed, PUBLIC, "plant")


def manifest(data: bytes, _: Path) -> object:
    packed = zlib.compress(data, 1)
    return Manifest.open(packed, HEAD, Pointer.to(packed))


def request(data: bytes, _: Path) -> object:
    """Reads it and asks whether it knows a code, which needs the derived keys of none."""
    found = enrol.Request.open(data, "plant")
    with pytest.MonkeyPatch.context() as patch:
        keys = enrol.CodeKeys(bytes(32), bytes(32))
        patch.setattr(enrol.CodeKeys, "derive", classmethod(lambda cls, *_: keys))
        return found.knows("7k3q9mztx8")


def request_samples() -> list[bytes]:
    identity = Identity.create("d0ck00000003")
    with pytest.MonkeyPatch.context() as patch:
        keys = enrol.CodeKeys(bytes(32), bytes(32))
        patch.setattr(enrol.CodeKeys, "derive", classmethod(lambda cls, *_: keys))
        sealed, _ = enrol.make_request(identity, "plant", "7k3q9mztx8", "dock 3")
    body = parse(split(sealed)[1])
    body["key"] = JOINING.public_key().public_bytes_raw().hex()
    return [seal("enrol", body, JOINING)]


def images() -> list[bytes]:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 32, 3), np.uint8)
    from PIL import Image

    found = []
    for kind, save in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **save)
        found.append(buffer.getvalue())
    return found


def identity_samples() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Identity.create("d0ck00000003").save(Path(folder))
        return [(Path(folder) / "identity.json").read_bytes()]


MEMBERSHIP = {
    "accrue": "membership/1",
    "fleet": "plant",
    "owner": "ab" * 32,
    "name": "dock 3",
    "host": "broker.local",
    "port": 8883,
    "tls": True,
    "user": "d0ck00000003",
}


def membership(path: Path) -> object:
    path.with_name("password").write_text("secret")
    return Membership.load(path.parent)


SETTINGS = b"""# of a device
head: auto
budget: 500
cameras: [camera:0, "rtsp://x/y"]
hosts: [line3.local]
listen: 0.0.0.0:8420
reject: 0.05
mirror: yes
"""
PRESENCE = Presence("ready", "1-2", 1_790_000_000_000, "0.1.0")

PARSERS: dict[str, Parser] = {
    "state": Parser(lambda data, _: State.from_bytes(data), files("state/v1/*.state")),
    "statistics": Parser(
        lambda data, _: Statistics.from_bytes(data), files("state/v1/*.statistics")
    ),
    "backup": Parser(in_file(into_new_state, "backup"), files("store/*/backup.accrue"), costs=4),
    "backup-sealed": Parser(
        in_file(into_new_state, "backup"), files("store/*/backup.accrue"), backup_mutant, costs=4
    ),
    "class-set": Parser(in_file(read_set, "x.set"), files("classset/good.set")),
    "contribution": Parser(
        lambda data, _: open_contribution(data, SCOPE, TRUST),
        files("sync/v1/contribution.envelope"),
        sealed_mutant("contribution", key_for("deck0000000a")),
    ),
    "part": Parser(lambda data, _: parts.unpack(data, SCOPE.dim), files("sync/v1/*.part")),
    "roster": Parser(roster, lambda: [DOCUMENTS["roster"].encode()], canonical_mutant),
    "manifest-head": Parser(
        lambda data, _: ManifestHead.open(data, PUBLIC),
        lambda: [HEAD.sealed(OWNER)],
        sealed_mutant("manifest", OWNER),
    ),
    "manifest": Parser(manifest, lambda: [DOCUMENTS["manifest"].encode()], canonical_mutant),
    "coming": Parser(
        lambda data, _: Coming.open(data, PUBLIC),
        lambda: [seal("manifest", json.loads(DOCUMENTS["coming"]), OWNER)],
        sealed_mutant("manifest", OWNER),
    ),
    "report": Parser(
        lambda data, _: Report.open(data, KNOWN, "plant", DOCK),
        lambda: [seal("report", json.loads(DOCUMENTS["report"]), DEVICE_KEY)],
        sealed_mutant("report", DEVICE_KEY),
    ),
    "enrol-request": Parser(request, request_samples, sealed_mutant("enrol", JOINING)),
    "admission": Parser(
        lambda data, _: enrol.Admission.from_bytes(data),
        lambda: [enrol.Admission("plant", bytes(32), "d0ck00000003", "pw", 3).to_bytes()],
        canonical_mutant,
    ),
    "batch": Parser(
        lambda data, _: list(Batch.from_bytes(data).messages),
        lambda: [Batch("ab" * 8, 7, (("a/b", b"x" * 40), ("c", b""))).to_bytes()],
    ),
    "relay-state": Parser(
        lambda data, _: read_state(data)[0],
        lambda: [b'{"epoch":"abababababababab","last":{"default/0123":4},"state":"ready"}'],
        json_mutant,
    ),
    "presence": Parser(
        lambda data, _: Presence.from_bytes(data), lambda: [PRESENCE.to_bytes()], json_mutant
    ),
    "identity": Parser(
        in_file(lambda path: Identity.load(path.parent), "identity.json"),
        identity_samples,
        json_mutant,
    ),
    "membership": Parser(
        in_file(membership, "membership.json"),
        lambda: [json.dumps(MEMBERSHIP).encode()],
        json_mutant,
    ),
    "settings": Parser(
        in_file(lambda path: load_settings({}, {}, path), "accrue.yaml"),
        lambda: [SETTINGS],
        yaml_mutant,
    ),
    "image": Parser(lambda data, _: decode(data, short_side=32), images),
}


@contextmanager
def bounded() -> Iterator[None]:
    """Memory beyond what the process has now is bounded, and so is its time."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, before[1]))
    started = time.thread_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.thread_time() - started < CPU_S


def require_one_line(error: AccrueError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def tried(parser: Parser, data: bytes, folder: Path) -> str:
    """What reading it ended with. Raises whatever is no error of ours."""
    try:
        with bounded():
            found = parser.read(data, folder)
    except AccrueError as error:
        require_one_line(error)
        return error.kind
    return "passed over" if found is None or (isinstance(found, str) and not found) else "read"


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_almost_right_is_read_or_refused(name: str, tmp_path: Path, nightly: bool) -> None:
    parser = PARSERS[name]
    samples = parser.samples()
    assert samples
    for sample in samples:
        assert tried(parser, sample, tmp_path) in ("read", "Conflict", "passed over")
    chance = Random(None if nightly else f"accrue {name}")
    ends: dict[str, int] = {}
    for _ in range((NIGHTLY_MUTANTS if nightly else MUTANTS) // parser.costs):
        data = parser.mutant(chance.choice(samples), chance)
        try:
            end = tried(parser, data, tmp_path)
        except BaseException:
            broken = tmp_path / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
            broken.write_bytes(data)
            print(f"broken by {len(data)} bytes; keep them in tests/data/hostile/{name}/: {broken}")
            raise
        ends[end] = ends.get(end, 0) + 1
    assert sum(n for end, n in ends.items() if end != "read") > 10, ends


@pytest.mark.parametrize(
    ("name", "path"),
    [(path.parent.name, path) for path in sorted(KEPT.glob("*/*"))],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_what_once_broke_a_parser_is_refused(name: str, path: Path, tmp_path: Path) -> None:
    assert tried(PARSERS[name], path.read_bytes(), tmp_path) not in ("read", "")


def test_the_bundles_of_others(tiny_bundle: Path, tmp_path: Path, nightly: bool) -> None:
    """Another manifest, in a folder and in a zip file whose bytes are changed too."""
    from accrue.bundle import space_id

    chance = Random("accrue bundles")
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    good = json.loads((folder / "manifest.json").read_text())
    golden = (folder / "golden/embeddings.npy").read_bytes()
    packed = tmp_path / "bundle.zip"
    import zipfile

    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(tiny_bundle.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(tiny_bundle).as_posix())
    whole = packed.read_bytes()
    refused = 0
    for number in range(NIGHTLY_MUTANTS // 4 if nightly else 60):
        where = folder
        found = json.loads(json.dumps(good))
        if number % 3 == 0:
            found = document_of(good, chance)
        elif number % 3 == 1:
            broken = bytes_of(golden[: 128 + 400], chance)
            (folder / "golden/embeddings.npy").write_bytes(broken)
            digest = hashlib.sha256(broken).hexdigest()
            found["files"]["golden/embeddings.npy"] = {"sha256": digest, "bytes": len(broken)}
            found["space_id"] = space_id(
                found["files"]["encoder.onnx"]["sha256"], found["preprocess"], None
            )
        else:
            end = whole[-3000:]
            packed.write_bytes(whole[:-3000] + bytes_of(end, chance))
            where = packed
        try:
            text = json.dumps(found).encode("utf-8", "surrogatepass")
        except RecursionError:
            text = b"[" * 100_000
        (folder / "manifest.json").write_bytes(text)
        try:
            with bounded():
                bundle = Bundle.open(where)
                bundle.verify()
                bundle.golden()
        except AccrueError as error:
            require_one_line(error)
            refused += 1
    assert refused > 20


def test_a_header_of_an_impossible_backup_fills_no_disk(tmp_path: Path) -> None:
    """It says that it unpacks to an exabyte, and its checksums fit."""
    good = files("store/v3/backup.accrue")()[0]
    _, version, length = struct.unpack_from("<8sII", good)
    header = json.loads(good[16 : 16 + length]) | {"database_bytes": 10**15}
    text = json.dumps(header, sort_keys=True).encode()
    head = struct.pack("<8sII", good[:8], version, len(text)) + text
    (tmp_path / "b").write_bytes(head + hashlib.sha256(head).digest() + good[16 + length + 32 :])
    with pytest.raises(AccrueError, match="no room left to write"):
        restore(tmp_path / "b", tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_payload_that_unpacks_to_more_than_it_says_is_cut_short(tmp_path: Path) -> None:
    """10 GB of zeros in 10 MB, under a header that says a megabyte."""
    good = files("store/v3/backup.accrue")()[0]
    _, version, length = struct.unpack_from("<8sII", good)
    packer = zlib.compressobj(9)
    payload = b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()
    header = json.loads(good[16 : 16 + length]) | {
        "database_bytes": 1 << 20,
        "payload_bytes": len(payload),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
    }
    text = json.dumps(header, sort_keys=True).encode()
    head = struct.pack("<8sII", good[:8], version, len(text)) + text
    (tmp_path / "b").write_bytes(head + hashlib.sha256(head).digest() + payload)
    with bounded(), pytest.raises(AccrueError, match="it unpacks to over 1,048,576 bytes"):
        restore(tmp_path / "b", tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_state_of_the_largest_dimension_and_no_class_takes_no_memory() -> None:
    """It once set aside 32 GiB for the sums of nothing."""
    head = struct.Struct("<8sHHI32sI").pack(b"ACCRUEST", 1, 0, 65_536, bytes(32), 0)
    with bounded():
        found = State.from_bytes(head)
        assert (len(found), found.copy().digest()) == (0, found.digest())


def test_settings_that_multiply_themselves_take_no_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "accrue.yaml").write_text("\n".join([*lines, "actor: *a11"]))
    with bounded(), pytest.raises(AccrueError):
        load_settings({}, {}, tmp_path / "accrue.yaml")
