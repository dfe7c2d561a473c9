"""`accrue watch`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.ask import HeadName, Reject, words
from accrue.cli.classes import JsonLines
from accrue.cli.output import emit, note, say
from accrue.cli.session import open_box

if TYPE_CHECKING:
    from accrue.service.watch import Sighting
    from accrue.vision.live import Status


def watch(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CAMERA...",
            help="camera:0, an rtsp:// address, a GStreamer line, a video, or play:FOLDER.",
        ),
    ],
    as_lines: JsonLines = False,
    every: Annotated[
        bool, typer.Option("--every", help="Report every frame, not only changed answers.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="S", help="Stop after this time.")
    ] = None,
    head: HeadName = None,
    reject: Reject = None,
) -> None:
    """Watch cameras and say what changes: an answer over several frames, of the newest frames."""
    from accrue.service.watch import Watch

    told: dict[str, tuple[str, str]] = {}
    states: dict[str, str] = {}
    with open_box(context, head=head, reject=reject) as box:
        remark = lambda text: note(f"accrue: {text}")  # noqa: E731
        with Watch(box, sources, remark=remark) as watching:
            deadline = math.inf if seconds is None else time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                seen = watching.step(min(left, 0.5))
                for status in watching.cameras:
                    _tell_state(status, states)
                if seen is None:
                    if watching.over:
                        return
                    continue
                answer = (seen.answer.verdict, seen.answer.label)
                if every or told.get(seen.camera) != answer:
                    told[seen.camera] = answer
                    if as_lines:
                        emit(_sighting(seen), indent=None)
                    else:
                        say(f"{seen.camera}\t{words(seen.answer)}\t{seen.votes} of {seen.of}")


def _tell_state(status: Status, states: dict[str, str]) -> None:
    if states.get(status.name) != status.state:
        states[status.name] = status.state
        because = f": {status.reason}" if status.reason else ""
        note(f"accrue: {status.name} is {status.state}{because}")


def _sighting(seen: Sighting) -> dict[str, Any]:
    return {
        "camera": seen.camera,
        "at": seen.at,
        "gate": seen.gate,
        "label": seen.answer.label or None,
        "verdict": seen.answer.verdict,
        "score": seen.answer.score,
        "margin": seen.answer.margin,
        "alternatives": [asdict(other) for other in seen.answer.alternatives],
        "votes": seen.votes,
        "of": seen.of,
        "stages_ms": seen.stages_ms,
    }
