"""``REPORT.md``: what a bundle is, in words. No date, no timing: one build, one text."""

from __future__ import annotations

from collections.abc import Sequence

from accrue.bundle import Manifest
from accrue_export.parity import Parity

REPORT = "REPORT.md"


def report(manifest: Manifest, *, exported: Parity | None, notes: Sequence[str] = ()) -> bytes:
    """Markdown, UTF-8.

    Args:
        exported: of ``encoder.onnx`` to the model that it was exported from; None where it was
            an ONNX file from the start.
        notes: whatever else should be known, a sentence each.
    """
    p = manifest.preprocess
    limits = "restricts the use of the weights" if manifest.licence_restricted else "permissive"
    lines = [
        f"# {manifest.name}",
        "",
        "| | |",
        "|---|---|",
        f"| space id | `{manifest.space_id}` |",
        f"| source | {_cell(manifest.source)} |",
        f"| licence | {_cell(manifest.licence_name)} ({limits}); `LICENSE.txt` |",
        f"| embedding | {manifest.dim} values, unit length |",
        f"| input | {manifest.size} x {manifest.size} px, RGB |",
        f"| resize | short side to {p.resize} px, {p.interpolation}, centre crop {p.crop} px |",
        f"| mean | {_three(p.mean)} |",
        f"| std | {_three(p.std)} |",
        "",
        "## Parity on the golden images",
        "",
        "| realisation | to | least cosine | median cosine | same nearest |",
        "|---|---|---|---|---|",
    ]
    if exported:
        lines.append(_parity("encoder.onnx", "the original model", exported))
    lines += [_parity(one.file, "encoder.onnx", one) for one in manifest.precisions.values()]
    if not exported and not manifest.precisions:
        lines.append("| encoder.onnx | is the reference | | | |")
    lines += ["", "## Files", "", "| file | bytes |", "|---|---|"]
    lines += [f"| {name} | {entry.bytes:,} |" for name, entry in sorted(manifest.files.items())]
    lines += ["", "## Made with", "", "| | version |", "|---|---|"]
    lines += [f"| {name} | {version} |" for name, version in sorted(manifest.producer.items())]
    if notes:
        lines += ["", "## To know", "", *(f"* {note}" for note in notes)]
    return ("\n".join(lines) + "\n").encode()


def _parity(what: str, to: str, one: object) -> str:
    least, median, same = (
        getattr(one, key) for key in ("min_cosine", "median_cosine", "same_nearest")
    )
    return f"| {what} | {to} | {least:.6f} | {median:.6f} | {same:.0%} |"


def _three(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
