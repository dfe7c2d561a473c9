"""`accrue predict`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.classes import Json, JsonLines
from accrue.cli.output import emit, note, one_form, progress, say, table, when
from accrue.cli.session import open_box
from accrue.errors import error_object

if TYPE_CHECKING:
    from accrue.service.box import Explanation, Prediction

HeadName = Annotated[
    str | None,
    typer.Option("--head", help="auto, or a head: cosine, gaussian, ridge ..."),
]
Reject = Annotated[
    float | None, typer.Option(help="Share of known objects that may be called unknown.")
]


def predict(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Photos, folders, a video file, camera:0, csi:0, an rtsp:// address or a "
            "GStreamer line.",
        ),
    ],
    as_json: Json = False,
    as_lines: JsonLines = False,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Stop a video or camera after this many frames.")
    ] = None,
    head: HeadName = None,
    reject: Reject = None,
) -> None:
    """Say what photos or a camera show: sure, maybe A or B, unknown, or not ready."""
    one_form(as_json, as_lines)
    answers: list[dict[str, Any]] = []
    failed = False
    with open_box(context, head=head, reject=reject) as box, progress() as update:
        images, total = _images(sources, frames, box.settings.board)
        for done, answer in enumerate(box.predict(images), 1):
            if total:
                update("looking", done, total)
            failed |= answer.error is not None
            if as_lines:
                emit(_answer(answer), indent=None)
            elif as_json:
                answers.append(_answer(answer))
            elif answer.error is not None:
                note(f"accrue: {answer.error.message}")
            else:
                say(f"{answer.source}\t{words(answer)}")
    if as_json:
        emit({"predictions": answers})
    if failed:
        raise typer.Exit(1)


def _images(
    sources: list[str], frames: int | None, board: str
) -> tuple[Iterator[tuple[str, Any]], int]:
    """(source, image or path) of everything named, and how many, 0 where that is not known."""
    from accrue.vision.sources import image_paths, is_stream, open_source

    live = [source for source in sources if is_stream(source)]
    paths = {source: image_paths(Path(source)) for source in sources if source not in live}

    def read() -> Iterator[tuple[str, Any]]:
        for source in sources:
            if source in paths:
                yield from ((str(path), path) for path in paths[source])
                continue
            with open_source(source, board=board) as opened:
                for frame in itertools.islice(opened, frames):
                    yield frame.name, frame.image

    return read(), 0 if live else sum(map(len, paths.values()))


def _answer(answer: Prediction) -> dict[str, Any]:
    if answer.error is not None:
        return {"path": answer.source, "error": error_object(answer.error)}
    return {
        "path": answer.source,
        "label": answer.label or None,
        "verdict": answer.verdict,
        "score": answer.score,
        "margin": answer.margin,
        "alternatives": [asdict(other) for other in answer.alternatives],
    }


def words(answer: Prediction) -> str:
    if answer.verdict == "unknown":
        return f"unknown (nearest: {answer.label})" if answer.label else "unknown"
    if answer.verdict == "not_ready":
        nearest = f" (nearest: {answer.label})" if answer.label else ""
        return f"not ready{nearest}: teach two classes or more, of a few shots each"
    if answer.verdict == "maybe":
        return "maybe " + " or ".join(other.label for other in answer.alternatives[:3])
    return f"sure: {answer.label}"


def why(
    context: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Photos or folders.")],
    most: Annotated[int, typer.Option(min=1, metavar="N", help="Shots to name of a class.")] = 3,
    as_json: Json = False,
    head: HeadName = None,
    reject: Reject = None,
) -> None:
    """Say what photos show and which taught shots speak for it, and for the runner-up."""
    told: list[dict[str, Any]] = []
    failed = False
    with open_box(context, head=head, reject=reject) as box:
        paths, _ = _images(images, None, box.settings.board)
        for answer in box.why(paths, most=most):
            failed |= answer.prediction.error is not None
            if as_json:
                told.append(_explained(answer))
            elif answer.prediction.error is not None:
                note(f"accrue: {answer.prediction.error.message}")
            else:
                _show_reasons(answer)
    if as_json:
        emit({"answers": told})
    if failed:
        raise typer.Exit(1)


def _explained(answer: Explanation) -> dict[str, Any]:
    if answer.prediction.error is not None:
        return _answer(answer.prediction)
    return {
        **_answer(answer.prediction),
        "reasons": [asdict(reason) for reason in answer.reasons],
        "refused": list(answer.refused),
    }


def _show_reasons(answer: Explanation) -> None:
    say(f"{answer.prediction.source}\t{words(answer.prediction)}")
    rows = [
        (f"{near.cosine:.3f}", reason.label, near.shot.id, when(near.shot.at), near.shot.source)
        for reason in answer.reasons
        for near in reason.shots
    ]
    if rows:
        table(["cosine", "class", "shot", "taught", "from"], rows)
    for label in answer.refused:
        note(f"not {label}: nearer to what was noted as not {label} than to its shots")
