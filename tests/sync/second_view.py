"""The rules of docs/reference/merge.md, written down a second time: slow, literal, on plain JSON.

It shares no code with `accrue.sync`: bodies are parsed JSON, parts are unpacked by hand, sums are
Python integers.
"""

from __future__ import annotations

import struct
import unicodedata
import zlib
from typing import Any

Body = dict[str, Any]


def key_of(name: str) -> str:
    once = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", once).casefold())


def newest(bodies: list[Body]) -> list[Body]:
    """The body with the highest revision for each device and class."""
    best: dict[tuple[str, str], Body] = {}
    for body in bodies:
        key = body["device"], body["class"]
        if key not in best or body["revision"] > best[key]["revision"]:
            best[key] = body
    return list(best.values())


def second_view(bodies: list[Body]) -> dict[str, Any]:
    bodies = newest(bodies)
    facts = []  # (stamp, device, class, subject, value)
    content = []  # (stamp, device, class, subject, sha256, first row, rows, kind)
    for body in bodies:
        at = body["device"], body["class"]
        for subject, (stamp, value) in body["facts"].items():
            facts.append((stamp, *at, subject, value))
        for part in body["parts"]:
            row = 0
            for subject, n_rows, _, stamp in part["members"]:
                facts.append((stamp, *at, subject, body["class"]))
                content.append((stamp, *at, subject, part["sha256"], row, n_rows, part["kind"]))
                row += n_rows

    winners = {}  # rule 1
    for fact in facts:
        subject = fact[3]
        if subject not in winners or fact[:3] > winners[subject][:3]:
            winners[subject] = fact

    def is_void(fact: Any) -> bool:  # rule 2
        stamp, author, class_id, _, value = fact
        return value is None or any(
            body["class"] == class_id and body["gone"].get(author, 0) >= stamp for body in bodies
        )

    live = {subject: fact for subject, fact in winners.items() if not is_void(fact)}
    where = {}  # rule 3
    for subject in list(live):
        if subject.split("/")[0] in ("shot", "folded", "refusal"):
            listed = [c for c in content if c[3] == subject]
            if listed:
                best = max(listed, key=lambda c: c[:3])
                where[subject] = (live[subject][4], best[1], *best[4:])
            else:
                del live[subject]

    alive = {}  # rule 4: class to the oldest stamp of what keeps it alive
    for subject, (stamp, _, class_id, _, value) in live.items():
        group = subject.split("/")[0]
        if group in ("shot", "folded", "text") or (group == "kept" and value):
            alive[class_id] = min(stamp, alive.get(class_id, stamp))

    names = {}  # rule 5
    for class_id in alive:
        leading = [f for f in live.values() if f[3].startswith("label/") and f[4][0] == class_id]
        ever = [f for f in facts if f[3].startswith("label/") and f[4] and f[4][0] == class_id]
        if f"name/{class_id}" in live:
            names[class_id] = live[f"name/{class_id}"][4]
        elif leading:
            names[class_id] = min(leading, key=lambda f: (f[0], f[1], f[3]))[4][1]
        elif ever:
            names[class_id] = min(ever, key=lambda f: (f[0], f[1], f[3]))[4][1]
        else:
            names[class_id] = class_id

    labels = {  # rule 6
        f[3].split("/", 1)[1]: (f[4][0], f[4][1], True)
        for f in live.values()
        if f[3].startswith("label/") and f[4][0] in alive
    }
    aliases = {
        c: sorted(t for k, (to, t, _) in labels.items() if to == c and k != key_of(names[c]))
        for c in alive
    }
    for class_id in sorted(alive, key=lambda c: (alive[c], c)):
        labels.setdefault(key_of(names[class_id]), (class_id, names[class_id], False))

    counts_as: dict[str, str] = {}  # rule 7
    edges = [
        (f[0], f[1], f[2], f[4])
        for f in live.values()
        if f[3].startswith("merged/") and f[2] in alive and f[4] in alive
    ]
    for _, _, one, target in sorted(edges):
        if one not in _chain(counts_as, target):
            counts_as[one] = target
    roots = {c: _chain(counts_as, c)[-1] for c in alive}

    shown: dict[str, list[str]] = {}  # rule 8
    for class_id in sorted(alive):
        if roots[class_id] == class_id:
            shown.setdefault(key_of(names[class_id]), []).append(class_id)
    return {
        "names": names,
        "aliases": aliases,
        "since": alive,
        "counts_as": counts_as,
        "roots": roots,
        "labels": labels,
        "homonyms": sorted(tuple(group) for group in shown.values() if len(group) > 1),
        "where": where,
        "text": {c: live[f"text/{c}"][4] for c in alive if f"text/{c}" in live},
        "kept": {c for c in alive if f"kept/{c}" in live and live[f"kept/{c}"][4]},
    }


def _chain(counts_as: dict[str, str], one: str) -> list[str]:
    chain = [one]
    while chain[-1] in counts_as:
        chain.append(counts_as[chain[-1]])
    return chain


Sums = tuple[int, list[int], list[list[int]]]


def second_unpack(data: bytes) -> tuple[str, Any]:
    """("rows", rows) or ("statistics", (n, s, S)), in Python integers."""
    magic, version, kind, reserved, dim, n = struct.unpack("<4sBBHII", data[:16])
    assert (magic, version, reserved) == (b"ACRP", 1, 0)
    raw = zlib.decompress(data[16:], -15)
    width = 2 if kind == 1 else 8
    count = len(raw) // width
    values = [
        int.from_bytes(bytes(raw[plane * count + i] for plane in range(width)), "little")
        for i in range(count)
    ]
    if kind == 1:
        signed = [v - 65_536 if v >= 32_768 else v for v in values]
        return "rows", [signed[i * dim : (i + 1) * dim] for i in range(n)]
    signed = [v // 2 if v % 2 == 0 else -(v + 1) // 2 for v in values]
    s, upper = signed[:dim], iter(signed[dim:])
    S = [[0] * dim for _ in range(dim)]
    for i in range(dim):
        for j in range(i, dim):
            S[i][j] = S[j][i] = next(upper)
    return "statistics", (n, s, S)


def second_sums(found: dict[str, Any], contents: dict[str, bytes], dim: int) -> dict[str, Sums]:
    """n, s and S of each root class."""
    sums: dict[str, Sums] = {}
    for subject, (class_id, _, sha256, row, n_rows, _) in found["where"].items():
        if subject.startswith("refusal/") or class_id not in found["roots"]:
            continue
        kind, content = second_unpack(contents[sha256])
        root = found["roots"][class_id]
        n, s, S = sums.get(root, (0, [0] * dim, [[0] * dim for _ in range(dim)]))
        if kind == "statistics":
            n += content[0]
            s = [a + b for a, b in zip(s, content[1], strict=True)]
            S = [[S[i][j] + content[2][i][j] for j in range(dim)] for i in range(dim)]
        else:
            for q in content[row : row + n_rows]:
                n += 1
                s = [a + b for a, b in zip(s, q, strict=True)]
                S = [[S[i][j] + q[i] * q[j] for j in range(dim)] for i in range(dim)]
        sums[root] = n, s, S
    return sums
