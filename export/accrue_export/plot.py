"""Encoders side by side as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accrue.errors import AccrueError, BundleError, UsageError
from accrue_export.ladder import Ladder

HEAD = "gaussian"  # what a device serves from two shots on
_FIVE = 5
FORMATS = (".svg", ".png", ".pdf")


def draw(ladders: Sequence[Ladder], out: Path) -> None:
    """Accuracy against shots, and against time; the same figures give the same SVG.

    Raises:
        UsageError: another suffix than `FORMATS`.
        AccrueError: matplotlib is missing. BundleError: the file cannot be written.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f"cannot plot into {out}; expected {', '.join(FORMATS)}", found=str(out))
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AccrueError("matplotlib is missing", hint='pip install "accrue[export]"') from error
    settings: Any = {"svg.hashsalt": "accrue", "svg.fonttype": "path", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for ladder in ladders:
            shots = sorted(ladder.accuracy)
            shares = [100 * ladder.accuracy[n][HEAD] for n in shots]
            left.plot(range(len(shots)), shares, marker="o", label=ladder.name)
            left.set_xticks(range(len(shots)), [str(n) for n in shots])
            right.scatter(ladder.latency_ms, 100 * ladder.accuracy[_FIVE][HEAD], label=ladder.name)
        left.set(xlabel="shots of each class", ylabel=f"accuracy, {HEAD} head, %")
        right.set(xlabel="one image on this machine, ms", ylabel=f"accuracy at {_FIVE} shots, %")
        right.set_xlim(left=0)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        left.legend()
        try:
            dates = {"Date": None} if out.suffix == ".svg" else {}
            figure.savefig(out, metadata=dates)
        except OSError as error:
            raise BundleError(f"cannot write {out}: {error.strerror}", path=str(out)) from error
