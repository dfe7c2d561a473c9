"""`accrue evaluate`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.ask import HeadName, Reject
from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, progress, say, table
from accrue.cli.session import open_box
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.service.evaluation import Evaluation
    from accrue.service.protocols import Report

SHOTS = "1,2,5,10,all"  # a class, of a protocol

Shrinkage = Annotated[float | None, typer.Option(help="Of the gaussian head, 0 to 1.")]
Strength = Annotated[float | None, typer.Option("--ridge", help="Strength of the ridge head.")]


def evaluate(
    context: typer.Context,
    test: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder of CLASS/photo.jpg to test on, or an .npz of embeddings."
        ),
    ],
    train: Annotated[
        Path | None, typer.Option(help="Teach from this folder first, into a throw-away state.")
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(metavar="K", help="Photos a class to teach (all); a protocol takes several."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of those photos.")] = 0,
    protocol: Annotated[
        str | None, typer.Option(help="Many draws: shots, sessions, unknown or noise.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of a protocol, from --seed on.")] = 5,
    csv: Annotated[
        Path | None, typer.Option(help="Write each measurement of a protocol here.")
    ] = None,
    head: HeadName = None,
    shrinkage: Shrinkage = None,
    ridge: Strength = None,
    reject: Reject = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy on folders of labelled photos."""
    flags = {"head": head, "shrinkage": shrinkage, "ridge": ridge, "reject": reject}
    if protocol is not None:
        _protocol(
            context, flags, protocol, test, train, shots, range(seed, seed + seeds), csv, as_json
        )
        return
    if csv is not None:
        raise UsageError("--csv writes the measurements of a protocol; add --protocol NAME")
    several = _shots_list(shots or "all")
    if len(several) > 1:
        raise UsageError(f"--shots {shots} without a protocol; expected one number, or --protocol")
    with open_box(context, **flags) as box, progress() as update:
        from accrue.service.evaluation import evaluate as run

        found = run(box, test, train=train, shots=several[0], seed=seed, progress=update)
    for refusal in found.refused:
        note(f"accrue: {refusal['error']['message']}")
    if as_json:
        emit(asdict(found))
    else:
        _report(found)
    if found.refused:
        raise typer.Exit(1)


def _shots_list(text: str) -> list[int | None]:
    """ "1,5,all" to [1, 5, None]."""
    found: list[int | None] = []
    for word in text.split(","):
        if word.strip() != "all" and (not word.strip().isdecimal() or int(word) < 1):
            raise UsageError(
                f"--shots {text}; expected whole numbers from 1 on, or all, as in 1,5,10,all"
            )
        found.append(None if word.strip() == "all" else int(word))
    return found


def _protocol(
    context: typer.Context,
    flags: dict[str, Any],
    name: str,
    test: Path,
    train: Path | None,
    shots: str | None,
    seeds: range,
    csv: Path | None,
    as_json: bool,
) -> None:
    several = _shots_list(shots or SHOTS)
    if csv is not None and not csv.parent.is_dir():
        raise UsageError(f"--csv {csv}: no folder {csv.parent}")
    with open_box(context, **flags) as box, progress() as update:
        from accrue.service.evaluation import protocol as run

        found = run(box, name, test, train=train, shots=several, seeds=seeds, progress=update)
    if csv is not None:
        from accrue.store.files import write_atomically

        write_atomically(csv, [_as_csv(found).encode()])
    for refusal in found.refused:
        note(f"accrue: {refusal['error']['message']}")
    if as_json:
        emit(asdict(found))
    else:
        names = list(next(iter(found.settings.values())))
        table(
            ["setting", *(name.replace("_", " ") for name in names)],
            [
                (setting, *(_percent(numbers[key]) for key in names))
                for setting, numbers in found.settings.items()
            ],
        )
        note(f"{count(len(seeds), 'draw')}: mean and standard deviation, in %")
    if found.refused:
        raise typer.Exit(1)


def _percent(spread: dict[str, float]) -> str:
    if not math.isfinite(spread["mean"]):
        return "-"
    return f"{100 * spread['mean']:.1f} ± {100 * spread['sd']:.1f}"


def _as_csv(found: Report) -> str:
    """One line for each number."""
    lines = ["protocol,setting,seed,measurement,value"]
    for run in found.runs:
        numbers = {key: value for key, value in run.items() if key not in ("setting", "seed")}
        lines += [
            f"{found.protocol},{run['setting']},{run['seed']},{key},{value!r}"
            for key, value in numbers.items()
        ]
    return "\n".join(lines) + "\n"


def _report(found: Evaluation) -> None:
    table(
        ["class", "right", "photos"],
        [(name, f"{c['accuracy']:.0%}", int(c["photos"])) for name, c in found.per_class.items()],
    )
    say(
        f"accuracy {found.accuracy:.1%} on {count(found.photos, 'photo')} "
        f"of {count(len(found.per_class), 'class', 'classes')}"
    )
    said = ", ".join(f"{verdict} {n}" for verdict, n in sorted(found.verdicts.items()))
    say(f"verdicts on them: {said or 'none'}")
    if found.never_taught:
        share = found.never_taught_unknown / found.never_taught
        say(f"never taught: {count(found.never_taught, 'photo')}, {share:.0%} answered as unknown")
    milliseconds = {name: f"{1e3 * value:.1f} ms" for name, value in found.seconds.items()}
    note(f"{found.classes} classes, {found.shots} shots, {found.head} ({found.reason})")
    note(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in milliseconds.items()))
