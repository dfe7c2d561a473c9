"""Writes tests/data/sync: the golden bytes of version 1, and one broken input a defect.

    python tests/sync/make_samples.py

Kept samples of a released version are never written again; a new version gets a folder beside it.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from fleet_cases import DEVICES, DIM, NOW_MS, SCOPE, SPACE, key_for

from accrue.learn.statistics import Statistics, quantise
from accrue.store.names import class_id, class_key
from accrue.sync import parts
from accrue.sync.clock import SKEW_MS
from accrue.sync.contribution import Contribution, Fact, Member, Part, text_value
from accrue.sync.parts import hash_of, pack_rows, pack_statistics
from accrue.sync.signed import canonical, seal, signed_bytes

DATA = Path(__file__).resolve().parents[1] / "data" / "sync"
DEVICE = DEVICES[0]
BOLT = class_id("default", "hex bolt")
NUT = class_id("default", "nut")
STAMP = NOW_MS << 16
REVISION = STAMP + 100
ROWS = quantise(np.array([[1, 0, 0], [0.6, 0.8, 0], [-1, 1, 0.5]]))
ROWS_PART = pack_rows(ROWS)
SUM = Statistics.of(ROWS[:2])
SUM_PART = pack_statistics(SUM)


def contribution() -> Contribution:
    """One of everything."""
    return Contribution(
        SCOPE,
        DEVICE,
        BOLT,
        REVISION,
        facts={
            f"label/{class_key('Hex Bolt')}": Fact(STAMP, (BOLT, "Hex Bolt")),
            f"label/{class_key('Schraube')}": Fact(STAMP + 4, None),
            f"name/{BOLT}": Fact(STAMP + 5, "Sechskantschraube M8 ⌀"),
            f"merged/{BOLT}": Fact(STAMP + 6, NUT),
            f"text/{BOLT}": Fact(STAMP + 7, text_value("a hex bolt", ROWS[1])),
            f"kept/{BOLT}": Fact(STAMP + 8, True),
            "shot/01k7000000000zzz": Fact(STAMP + 9, BOLT),
            "refusal/01k700000000gone": Fact(STAMP + 10, None),
        },
        gone={DEVICES[1]: STAMP - 1},
        parts=(
            Part(
                hash_of(ROWS_PART),
                len(ROWS_PART),
                "rows",
                (
                    Member("shot/01k7000000000aaa", 2, NOW_MS, STAMP + 1),
                    Member("refusal/01k7000000000bbb", 1, NOW_MS + 1, STAMP + 2),
                ),
            ),
            Part(
                hash_of(SUM_PART),
                len(SUM_PART),
                "statistics",
                (Member(f"folded/{DEVICE}-1", 2, NOW_MS + 2, STAMP + 3),),
            ),
        ),
    )


def envelope(body: Any, kind: Any = "contribution", device: str = DEVICE) -> bytes:
    """Signs what an honest `seal` would refuse, too."""
    data = body if isinstance(body, bytes) else _canonical(body)
    return key_for(device).sign(signed_bytes(kind, data)) + data


def _canonical(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _changed(**changes: Any) -> bytes:
    return envelope({**contribution().to_body(), **changes})


def _facts(**facts: Any) -> bytes:
    return _changed(facts={subject.replace("__", "/"): fact for subject, fact in facts.items()})


def _parts(change: Any) -> bytes:
    body = json.loads(canonical(contribution().to_body()))
    change(body["parts"])
    return envelope(body)


def broken_contributions() -> dict[str, tuple[str, bytes]]:
    """Defect to the reason of refusal and the envelope."""
    good = seal("contribution", contribution().to_body(), key_for(DEVICE))
    body = good[64:]
    plain = contribution().to_body()
    nested: Any = "deep"
    for _ in range(40):
        nested = [nested]
    label = f"label/{class_key('hex bolt')}"
    impossible = np.array([1, -32_768, 3], np.int16)
    return {
        "signature-altered": ("forged", good[:10] + bytes([good[10] ^ 1]) + good[11:]),
        "body-altered": ("forged", good.replace(b"Hex Bolt", b"Hex Nuts")),
        "signed-as-a-roster": ("forged", envelope(plain, "roster")),
        "signed-by-another": ("forged", envelope(plain, device=DEVICES[1])),
        "stranger": (
            "unknown-device",
            envelope({**plain, "device": "stranger0000"[:12]}, device="stranger"),
        ),
        "from-the-future": (
            "future",
            _changed(revision=NOW_MS + SKEW_MS + 1 << 16),
        ),
        "other-space": ("wrong-space", _changed(space="0" * 64)),
        "other-dimension": (
            "wrong-space",
            _changed(dim=DIM + 1, facts={}),
        ),
        "other-fleet": ("wrong-scope", _changed(fleet="barn")),
        "other-set": ("wrong-scope", _changed(set="tools")),
        "nothing": ("malformed", b""),
        "signature-alone": ("malformed", good[:64]),
        "cut-short": ("malformed", good[:-20]),
        "trailing-bytes": ("malformed", good + b" "),
        "no-json": ("malformed", envelope(b"\x00\x01\x02")),
        "no-utf-8": ("malformed", envelope(body.replace(b"Hex Bolt", b"Hex Bol\xff"))),
        "surrogate": ("malformed", envelope(body.replace(b"Hex Bolt", b"Hex \\ud800"))),
        "with-spaces": ("malformed", envelope(body.replace(b'","', b'", "'))),
        "keys-unsorted": (
            "malformed",
            envelope(
                json.dumps(
                    dict(sorted(plain.items(), reverse=True)), separators=(",", ":")
                ).encode()
            ),
        ),
        "key-twice": ("malformed", envelope(body.replace(b'"dim":3', b'"dim":3,"dim":3'))),
        "needless-escape": ("malformed", envelope(body.replace(b"Hex", b"\\u0048ex"))),
        "float": ("malformed", envelope(body.replace(b'"dim":3', b'"dim":3.0'))),
        "not-a-number": ("malformed", envelope(body.replace(b'"dim":3', b'"dim":NaN'))),
        "integer-of-many-digits": (
            "malformed",
            envelope(body.replace(b'"dim":3', b'"dim":' + b"9" * 5000)),
        ),
        "integer-beyond-64-bits": (
            "malformed",
            envelope(body.replace(b'"dim":3', b'"dim":%d' % 2**64)),
        ),
        "nested-deep": ("malformed", _changed(facts=nested)),
        "nested-very-deep": ("malformed", envelope(b"[" * 20_000 + b"]" * 20_000)),
        "a-list": ("malformed", envelope([1, 2, 3])),
        "null": ("malformed", envelope(None)),
        "unknown-key": ("malformed", _changed(colour="red")),
        "missing-key": ("malformed", envelope({k: v for k, v in plain.items() if k != "gone"})),
        "future-version": ("malformed", _changed(accrue="contribution/2")),
        "bool-for-a-number": ("malformed", _changed(dim=True)),
        "device-id-of-another-form": ("malformed", _changed(device="../../etc/pw")),
        "class-id-of-another-form": ("malformed", _changed(**{"class": BOLT.upper()})),
        "revision-zero": ("malformed", _changed(revision=0)),
        "revision-negative": ("malformed", _changed(revision=-5)),
        "revision-beyond": (
            "malformed",
            envelope(body.replace(str(REVISION).encode(), b"%d" % 2**63)),
        ),
        "fact-after-revision": ("malformed", _facts(**{f"kept__{BOLT}": [REVISION + 1, True]})),
        "fact-without-stamp": ("malformed", _facts(**{f"kept__{BOLT}": [True]})),
        "fact-of-another-class": ("malformed", _facts(**{f"kept__{NUT}": [STAMP, True]})),
        "shot-filed-elsewhere": ("malformed", _facts(shot__01k7=[STAMP, NUT])),
        "label-filed-elsewhere": ("malformed", _changed(facts={label: [STAMP, [NUT, "hex bolt"]]})),
        "unknown-subject": ("malformed", _facts(colour__red=[STAMP, None])),
        "subject-without-id": ("malformed", _facts(shot__=[STAMP, None])),
        "name-with-a-line-break": ("malformed", _facts(**{f"name__{BOLT}": [STAMP, "a\nb"]})),
        "name-empty": ("malformed", _facts(**{f"name__{BOLT}": [STAMP, ""]})),
        "name-too-long": ("oversized", _facts(**{f"name__{BOLT}": [STAMP, "x" * 201]})),
        "kept-as-text": ("malformed", _facts(**{f"kept__{BOLT}": [STAMP, "yes"]})),
        "merged-into-itself": ("malformed", _facts(**{f"merged__{BOLT}": [STAMP, BOLT]})),
        "text-vector-too-short": ("malformed", _facts(**{f"text__{BOLT}": [STAMP, ["a", "AAAA"]]})),
        "text-vector-no-base64": ("malformed", _facts(**{f"text__{BOLT}": [STAMP, ["a", "####"]]})),
        "text-vector-zero": (
            "not-finite",
            _facts(**{f"text__{BOLT}": [STAMP, ["a", "AAAAAAAA"]]}),
        ),
        "text-vector-minus-32768": (
            "not-finite",
            _facts(**{f"text__{BOLT}": [STAMP, text_value("a", impossible)]}),
        ),
        "gone-of-no-device": ("malformed", _changed(gone={"everybody": STAMP})),
        "gone-after-revision": ("malformed", _changed(gone={DEVICES[1]: REVISION + 1})),
        "gone-of-too-many": (
            "oversized",
            _changed(facts={}, parts=[], gone={f"{i:012}": 1 for i in range(2_049)}),
        ),
        "facts-too-many": (
            "oversized",
            _changed(parts=[], facts={f"shot/{i}": [1, None] for i in range(2_049)}),
        ),
        "parts-too-many": (
            "oversized",
            _parts(
                lambda p: p.extend(
                    {**p[1], "members": [[f"folded/{i}", 2, 1, STAMP]]} for i in range(70)
                )
            ),
        ),
        "part-too-large": ("oversized", _parts(lambda p: p[0].update(bytes=2**30))),
        "parts-too-large-together": (
            "oversized",
            _parts(lambda p: [each.update(bytes=10 * 2**20) for each in p]),
        ),
        "part-of-no-bytes": ("malformed", _parts(lambda p: p[0].update(bytes=0))),
        "part-without-members": ("malformed", _parts(lambda p: p[0].update(members=[]))),
        "part-of-unknown-kind": ("malformed", _parts(lambda p: p[0].update(kind="pictures"))),
        "part-hash-of-another-form": ("malformed", _parts(lambda p: p[0].update(sha256="A" * 64))),
        "member-that-is-a-name": (
            "malformed",
            _parts(lambda p: p[0].update(members=[[f"name/{BOLT}", 3, 1, STAMP]])),
        ),
        "member-without-rows": (
            "malformed",
            _parts(lambda p: p[0].update(members=[["shot/01k7", 0, 1, STAMP]])),
        ),
        "member-after-revision": (
            "malformed",
            _parts(lambda p: p[0].update(members=[["shot/01k7", 3, 1, REVISION + 1]])),
        ),
        "member-twice": (
            "malformed",
            _parts(lambda p: p[0]["members"].append(p[0]["members"][0])),
        ),
        "member-that-is-a-fact-too": (
            "malformed",
            _changed(facts={"shot/01k7000000000aaa": [STAMP, BOLT]}),
        ),
        "statistics-of-a-shot": (
            "malformed",
            _parts(lambda p: p[1].update(members=[["shot/01k7", 2, 1, STAMP]])),
        ),
        "statistics-of-two": (
            "malformed",
            _parts(
                lambda p: p[1].update(
                    members=[["folded/a", 1, 1, STAMP], ["folded/b", 1, 1, STAMP]]
                )
            ),
        ),
    }


def broken_parts() -> dict[str, tuple[str, bytes]]:
    """Defect to the reason of refusal and the bytes of the part."""

    def head(kind: int, dim: int, n: int, magic: bytes = b"ACRP", version: int = 1) -> bytes:
        return parts._HEAD.pack(magic, version, kind, 0, dim, n)

    def packed(content: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(content) + packer.flush()

    low = np.array([[1, -32_768, 3]], "<i2")
    too_low = head(1, 3, 1) + parts._deflate(low, 0)
    folded = np.array([4, 4, 4] + [2] * 6, "<u8")  # n = 1, s = 2, S = 1: no row has these sums
    return {
        "part-nothing": ("malformed", b""),
        "part-header-cut-short": ("malformed", ROWS_PART[:10]),
        "part-content-cut-short": ("malformed", ROWS_PART[:-3]),
        "part-trailing-bytes": ("malformed", ROWS_PART + b"\0"),
        "part-other-magic": ("malformed", b"JPEG" + ROWS_PART[4:]),
        "part-future-version": ("malformed", head(1, 3, 3, version=2) + ROWS_PART[16:]),
        "part-unknown-kind": ("malformed", head(3, 3, 3) + ROWS_PART[16:]),
        "part-other-dimension": ("wrong-space", pack_rows(quantise(np.eye(4)))),
        "part-dimension-zero": ("malformed", head(1, 0, 3) + ROWS_PART[16:]),
        "part-no-rows": ("malformed", head(1, 3, 0) + packed(b"")),
        "part-more-rows-than-content": ("malformed", head(1, 3, 4) + ROWS_PART[16:]),
        "part-fewer-rows-than-content": ("malformed", head(1, 3, 2) + ROWS_PART[16:]),
        "part-bomb": ("malformed", head(1, 3, 3) + packed(bytes(5_000_000))),
        "part-of-gigabytes": ("oversized", head(1, 3, 2**31) + packed(bytes(1000))),
        "part-no-deflate": ("malformed", head(1, 3, 3) + b"\xff" * 40),
        "part-row-minus-32768": ("not-finite", too_low),
        "part-impossible-statistics": ("not-finite", head(2, 3, 1) + parts._deflate(folded, 0)),
        "part-of-too-many-rows-summed": ("oversized", head(2, 3, 2**24) + SUM_PART[16:]),
        "part-statistics-cut-short": ("malformed", SUM_PART[:-2]),
    }


def main() -> None:
    golden = DATA / "v1"
    golden.mkdir(parents=True, exist_ok=True)
    body = contribution().to_body()
    (golden / "contribution.envelope").write_bytes(seal("contribution", body, key_for(DEVICE)))
    (golden / "contribution.json").write_text(
        json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (golden / "rows.part").write_bytes(ROWS_PART)
    (golden / "statistics.part").write_bytes(SUM_PART)
    for found, name in ((broken_contributions(), "envelope"), (broken_parts(), "part")):
        for defect, (_, data) in found.items():
            folder = DATA / defect
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    print(f"{SPACE[:4]}: {sum(1 for _ in DATA.rglob('*'))} files below {DATA}", file=sys.stderr)


if __name__ == "__main__":
    main()
