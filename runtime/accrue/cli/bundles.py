"""`accrue bundle`: look at an encoder bundle and check it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.classes import Json
from accrue.cli.output import emit, say
from accrue.cli.session import settings_of

if TYPE_CHECKING:
    from accrue.bundle import Bundle

app = typer.Typer(help="Look at an encoder bundle and check it.", no_args_is_help=True)
Where = Annotated[
    Path | None, typer.Argument(help="Bundle folder or file; else the one that is in use.")
]


def _open(context: typer.Context, path: Path | None) -> Bundle:
    from accrue.bundle import Bundle, default_bundle_path

    settings, _ = settings_of(context, bundle=path)
    return Bundle.open(settings.bundle or default_bundle_path())


def summary(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "name": manifest.name,
        "space_id": manifest.space_id,
        "dim": manifest.dim,
        "size": manifest.size,
        "source": manifest.source,
        "licence": manifest.licence_name,
        "restricted": manifest.licence_restricted,
        "preprocess": asdict(manifest.preprocess),
        "precisions": sorted(manifest.precisions),
    }


@app.command()
def show(context: typer.Context, path: Where = None, as_json: Json = False) -> None:
    """Show what an encoder bundle is and under which licence."""
    about = summary(_open(context, path))
    if as_json:
        emit(about)
        return
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        if isinstance(value, list):
            value = ", ".join(value) or "none beside the reference"
        say(f"{key}: {'yes' if value is True else 'no' if value is False else value}")


@app.command()
def verify(context: typer.Context, path: Where = None, as_json: Json = False) -> None:
    """Check every byte of a bundle, and its encoder against the golden images."""
    from accrue.vision.encode import OnnxEncoder, golden_check

    bundle = _open(context, path)
    bundle.verify()
    parity = golden_check(OnnxEncoder(bundle), bundle)
    if as_json:
        emit({**summary(bundle), "parity": asdict(parity)})
    else:
        say(
            f"{bundle.path}: every file as listed; golden images agree "
            f"(least cosine {parity.min_cosine:.6f})"
        )
