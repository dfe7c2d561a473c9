"""Accrue beside its peers on the same embeddings: accuracy, forgetting, unknown, noise.

    tools/bench/accuracy embed --bundle BUNDLE --train DIR --test DIR [--views V] -o FILE.npz
    tools/bench/accuracy run FILE.npz [--protocol NAME ...] [--seeds N] [--quick] [-o FOLDER]
    tools/bench/accuracy run --bundle BUNDLE --train DIR --test DIR [-o FOLDER]

DIR has photos as CLASS/photo.jpg, or an `index.csv` with path and fine_label. The keys of an
`.npz` stand in `embeddings.py`, the protocols in `protocols.py`, the peers in `peers/`.

Every measurement is appended to FOLDER/results.jsonl at once, and a later run goes on from there.
`--again METHOD` measures a method anew, which is what is wanted after the learner was changed:

    tools/bench/accuracy run FILE.npz -o FOLDER --again Accrue

FOLDER also gets results.csv, results.json, tables.md, and a plot of each protocol.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accuracy_report import (
    Result,
    plot,
    print_tables,
    summary,
    write_csv,
    write_json,
    write_markdown,
)
from common import describe_machine, machine_line, progress
from embeddings import Data, embed, read, write
from protocols import (
    METHODS,
    PROTOCOLS,
    SIMPLE_SCORES,
    Cell,
    Options,
    ZeroShot,
    cells,
    measure,
    shots_of,
)

from accrue.bundle import default_bundle_path
from accrue.errors import AccrueError

PACKAGES = ("accrue", "numpy", "scikit-learn")
QUICK = {"shots": (1, 5), "noise": (0.2,), "seeds": 2}


def main(words: list[str] | None = None) -> int:
    args = _parser().parse_args(words)
    try:
        if args.command == "embed":
            write(args.out, _embedded(args))
            return 0
        return run(args)
    except (AccrueError, ValueError, OSError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("embed", "run"):
        command = commands.add_parser(name)
        command.add_argument("--bundle", type=Path, default=default_bundle_path())
        command.add_argument("--train", type=Path, required=name == "embed", metavar="DIR")
        command.add_argument("--test", type=Path, required=name == "embed", metavar="DIR")
        command.add_argument("--views", type=int, default=1, help="of a photo that is taught")
        command.add_argument("--test-views", type=int, help="of one that is asked; as --views")
        command.add_argument("--threads", type=int, help="of the encoder")
        command.add_argument("-o", "--out", type=Path, required=name == "embed")
    command.set_defaults(out=Path("build/accuracy"))
    command.add_argument("data", nargs="?", type=Path, metavar="FILE.npz")
    several = {"action": "extend", "nargs": "+", "default": [], "metavar": "NAME"}
    command.add_argument("--protocol", choices=list(PROTOCOLS), **several)
    command.add_argument("--setting", help="as in the tables; all", **several)
    methods = [*METHODS, ZeroShot.name, *SIMPLE_SCORES]
    command.add_argument("--method", choices=methods, help="all", **several)
    command.add_argument("--again", choices=methods, help="measure anew", **several)
    command.add_argument("--seeds", type=int, help="5, or 2 with --quick")
    command.add_argument("--shots", type=_shots, metavar="K,...", help="1,2,5,10,all")
    command.add_argument("--noise", type=_shares, metavar="S,...", help="0.1,0.2,0.3,0.4")
    command.add_argument("--base", type=int, default=0, help="classes of the first session")
    command.add_argument("--step", type=int, default=0, help="classes of each later session")
    command.add_argument("--novel-shots", type=int, default=5)
    command.add_argument("--quick", action="store_true", help="fewer shots, seeds and noise")
    command.add_argument("--no-plots", action="store_true")
    return parser


def _shots(text: str) -> tuple[int | None, ...]:
    return tuple(shots_of(word) for word in text.split(","))


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


def _embedded(args: argparse.Namespace) -> Data:
    test_views = args.test_views or args.views
    return embed(args.bundle, args.train, args.test, args.views, test_views, args.threads)


def run(args: argparse.Namespace) -> int:
    if (args.data is None) == (args.train is None or args.test is None):
        raise ValueError("expected either FILE.npz, or --train DIR and --test DIR")
    if not args.no_plots and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install matplotlib, or add --no-plots")
    data = read(args.data) if args.data else _embedded(args)
    machine = describe_machine(PACKAGES)
    progress(machine_line(machine))
    options = Options(
        shots=args.shots or (QUICK["shots"] if args.quick else Options.shots),
        noise=args.noise or (QUICK["noise"] if args.quick else Options.noise),
        base=args.base,
        step=args.step,
        novel_shots=args.novel_shots,
    )
    seeds = args.seeds or (QUICK["seeds"] if args.quick else 5)
    args.out.mkdir(parents=True, exist_ok=True)
    waiting = [
        (PROTOCOLS[name](options), cell)
        for name in args.protocol or PROTOCOLS
        for cell in cells(PROTOCOLS[name](options), data, args.method, seeds)
        if not args.setting or cell.setting in args.setting
    ]
    if data.text is None and "base-to-new" in args.protocol:
        raise ValueError("base-to-new needs the key `text`: one vector for each name")
    if not waiting:
        raise ValueError("nothing to measure: no such method or setting in these protocols")
    log = Log(args.out / "results.jsonl", data, options, set(args.again))
    for done, (protocol, cell) in enumerate(waiting, 1):
        if cell.key() in log.found:
            continue
        progress(f"{done}/{len(waiting)} {cell.key()}")
        log.add(cell, measure(protocol, data, cell))
    results = [log.found[cell.key()] for _, cell in waiting]
    entries = summary(results)
    report(args, entries, results, {"machine": machine, "data": log.stamp, **asdict(options)})
    return 0


class Log:
    """The measurements that are there, by key; those of other data or options do not count."""

    def __init__(self, path: Path, data: Data, options: Options, again: set[str]) -> None:
        self.path = path
        self.stamp = data.digest()
        self.settings = json.dumps([options.base, options.step, options.novel_shots])
        self.found: dict[str, Result] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # cut off while it was written
                continue
            cell = Cell(**entry["cell"])
            same = (entry["data"], entry["settings"]) == (self.stamp, self.settings)
            if same and cell.method not in again:
                self.found[cell.key()] = (cell, entry["numbers"])

    def add(self, cell: Cell, numbers: dict[str, float]) -> None:
        self.found[cell.key()] = (cell, numbers)
        entry = {"cell": asdict(cell), "numbers": numbers}
        entry |= {"data": self.stamp, "settings": self.settings}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def report(
    args: argparse.Namespace,
    entries: list[dict[str, Any]],
    results: list[Result],
    about: dict[str, Any],
) -> None:
    write_csv(args.out / "results.csv", results)
    write_json(args.out / "results.json", {"format": 1, **about, "results": entries})
    write_markdown(args.out / "tables.md", entries)
    if not args.no_plots:
        plot(args.out, entries)
    print_tables(entries)


if __name__ == "__main__":
    sys.exit(main())
