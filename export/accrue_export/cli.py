"""`accrue-export`: the workstation's command line. Heavy imports wait for their command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue import __version__
from accrue.cli.output import count, emit, note, progress, say, table
from accrue.errors import AccrueError, NotFound, UsageError, error_object
from accrue_export.steps import Step, shown

if TYPE_CHECKING:
    from accrue.bundle import Bundle
    from accrue_export.ladder import Ladder, Photos
    from accrue_export.models import Tower

EPILOG = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 5 conflict, 6 refused by a quality gate."
INTERRUPTED = 130

app = typer.Typer(
    name="accrue-export",
    help="Turn a frozen image encoder into a bundle that a device can trust.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Out = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="BUNDLE", help="Folder; one file if *.zip, *.accrue."),
]
Size = Annotated[int | None, typer.Option(help="Side of the square input, px.")]
Resize = Annotated[int | None, typer.Option(help="Short side before the crop, px.")]
Interpolation = Annotated[str | None, typer.Option(help="bicubic or bilinear.")]
Mean = Annotated[str | None, typer.Option(metavar="R,G,B", help="In units of 0..1.")]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="In units of 0..1.")]
Name = Annotated[str | None, typer.Option(help="Of the encoder, for people.")]
Licence = Annotated[str, typer.Option(metavar="NAME", help="Of the weights; SPDX if it has one.")]
LicenceFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Its text.")]
Accept = Annotated[
    str, typer.Option(metavar="NAME", help="Needed where a licence restricts the use.")
]
Fp16 = Annotated[bool, typer.Option(help="With encoder.fp16.onnx.")]
Train = Annotated[Path | None, typer.Option(metavar="DIR", help="CLASS/PHOTO.jpg to teach.")]
Test = Annotated[Path | None, typer.Option(metavar="DIR", help="CLASS/PHOTO.jpg to ask about.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"accrue-export {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="open_clip or timm name, or hf-hub:OWNER/NAME.")],
    output: Out,
    pretrained: Annotated[
        str,
        typer.Option(metavar="TAG", help="Weights; with --weights: what they are like."),
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Local weights, safetensors or torch.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(metavar="SEED", help="Random weights, to try the model.")
    ] = None,
    name: Name = None,
    size: Size = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    licence: Licence = "",
    licence_file: LicenceFile = None,
    accept_licence: Accept = "",
    fp16: Fp16 = True,
    text: Annotated[
        bool, typer.Option(help="With class-name vectors and text tower, where there is one.")
    ] = True,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the text tower, if the hub is away.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a model of open_clip or timm."""
    from accrue_export import models

    _need_free(output)
    request = models.Request(
        model=model,
        tag=pretrained,
        weights=weights,
        seed=random,
        size=size,
        resize=resize,
        interpolation=interpolation,
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
        licence=licence,
    )
    terms = _text_of(licence_file)
    models.check_licence(request, accept_licence)
    tower = models.load(request, shown)
    words = _text_part(tower, tokenizer) if text and tower.clip else None
    graph = models.to_onnx(tower, shown)
    bundle = _write(
        output,
        model=graph,
        name=name or tower.name,
        source=tower.source,
        licence=tower.licence,
        accepted=accept_licence,
        terms=terms or tower.licence_text,
        preprocess=tower.preprocess,
        reference=lambda prepared: models.features(tower, prepared),
        producer=models.versions(),
        notes=tower.notes,
        fp16=fp16,
        extra=words[0] if words else {},
        text=words[1] if words else None,
    )
    _written(bundle, as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="float32 (batch, 3, H, W) to (batch, dim).")],
    output: Out,
    size: Annotated[int, typer.Option(help="Side of the square input, px.")],
    interpolation: Annotated[str, typer.Option(help="bicubic or bilinear.")],
    mean: Annotated[str, typer.Option(metavar="R,G,B", help="In units of 0..1.")],
    std: Annotated[str, typer.Option(metavar="R,G,B", help="In units of 0..1.")],
    licence: Annotated[str, typer.Option(metavar="NAME", help="Of the weights; best SPDX.")],
    resize: Resize = None,
    name: Name = None,
    source: Annotated[str, typer.Option(help="Where the weights come from.")] = "",
    licence_file: LicenceFile = None,
    accept_licence: Accept = "",
    fp16: Fp16 = True,
    as_json: Json = False,
) -> None:
    """Make a bundle of an ONNX file that you have."""
    from accrue.bundle import INTERPOLATIONS, LARGEST_INPUT_PX, Preprocess
    from accrue_export.catalogue import canonical
    from accrue_export.graph import read_onnx

    _need_free(output)
    if interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"--interpolation {interpolation}; expected {' or '.join(INTERPOLATIONS)}",
            found=interpolation,
        )
    short = resize or size
    if not 8 <= size <= LARGEST_INPUT_PX or not size <= short <= 4 * LARGEST_INPUT_PX:
        raise UsageError(
            f"--size {size} --resize {short}; expected 8 <= size <= {LARGEST_INPUT_PX:,} and "
            "resize at least size"
        )
    means, stds = _three(mean, "--mean"), _three(std, "--std")
    assert means
    assert stds
    bundle = _write(
        output,
        model=read_onnx(file),
        name=name or file.stem,
        source=source or f"ONNX file {file.name}",
        licence=canonical(licence),
        accepted=accept_licence,
        terms=_text_of(licence_file),
        preprocess=Preprocess(short, size, interpolation, means, stds),
        fp16=fp16,
    )
    _written(bundle, as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List encoders that are known to work, with their licences."""
    from accrue_export.catalogue import known

    rows = known()
    if as_json:
        emit({"models": [{**vars(row), "restricted": row.restricted} for row in rows]})
        return
    table(
        ("model", "--pretrained", "M parameters", "dim", "px", "licence"),
        [
            (r.name, r.tag, r.parameters, r.dim, r.size, r.licence + " !" * r.restricted)
            for r in rows
        ],
    )
    say("!: restricts the use of the weights; build asks for --accept-licence NAME")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder or file.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="CLASS/PHOTO.jpg, half taught, half asked.")
    ] = None,
    train: Train = None,
    test: Test = None,
    as_json: Json = False,
) -> None:
    """Measure the parity of every realisation, and with photos the accuracy."""
    from accrue_export.ladder import folders

    photos = folders(data, train, test)
    ladder = _measured(bundle, photos)
    if as_json:
        emit(ladder.document())
        return
    _say_parity([ladder])
    if photos:
        _say_accuracy([ladder])
    say(f"one image in ONNX Runtime here: {ladder.latency_ms:g} ms (median)")


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="Two or more.")],
    train: Annotated[Path, typer.Option(metavar="DIR", help="CLASS/PHOTO.jpg to teach.")],
    test: Annotated[Path, typer.Option(metavar="DIR", help="CLASS/PHOTO.jpg to ask about.")],
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="*.svg, *.png, *.pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Put encoders side by side, as a table and a plot."""
    from accrue.bundle import Bundle
    from accrue_export.ladder import folders
    from accrue_export.plot import draw

    if len(bundles) < 2:
        raise UsageError("one bundle; expected two or more to compare")
    for path in bundles:  # before minutes are spent on the first
        if not path.exists():
            Bundle.open(path)
    photos = folders(None, train, test)
    ladders = [_measured(path, photos) for path in bundles]
    if plot:
        draw(ladders, plot)
    if as_json:
        emit({"bundles": [ladder.document() for ladder in ladders]})
        return
    _say_parity(ladders)
    _say_accuracy(ladders)


def _text_part(tower: Tower, folder: Path | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    from accrue_export import models
    from accrue_export.text import text_contents, tokenizer_of

    tokenizer = tokenizer_of(tower.clip_name, folder)
    dim = models.dim_of(tower)
    with shown("text tower and class names"), progress() as update:
        return text_contents(tower.clip, tokenizer, dim=dim, progress=update)


def _measured(path: Path, photos: tuple[Photos, Photos] | None) -> Ladder:
    from accrue.bundle import Bundle
    from accrue_export.ladder import check, climb

    bundle = Bundle.open(path)
    ladder = check(bundle, shown)
    if photos:
        with progress() as update:
            climb(bundle, photos[0], photos[1], ladder, update)
        if ladder.refused:
            note(f"left out: {count(len(ladder.refused), 'photo')}, such as: {ladder.refused[0]}")
    return ladder


def _say_parity(ladders: Sequence[Ladder]) -> None:
    rows = [
        (
            ladder.name,
            file,
            where,
            f"{p.min_cosine:.6f}",
            f"{p.median_cosine:.6f}",
            f"{p.same_nearest:.1%}",
            f"{p.margin_change:+.6f}",
        )
        for ladder in ladders
        for where, found in (("golden", ladder.golden), ("photos", ladder.photos))
        for file, p in found.items()
    ]
    headers = ("encoder", "realisation", "on", "least cosine", "median", "same nearest", "margin")
    table(headers, rows)


def _say_accuracy(ladders: Sequence[Ladder]) -> None:
    first = ladders[0]
    say("")
    say(
        f"Taught {count(first.train, 'photo')} of {count(first.classes, 'class', 'classes')}, "
        f"asked {count(first.test, 'photo')}; accuracy in %, mean of the draws."
    )
    rows = []
    for ladder in ladders:
        for head in next(iter(ladder.accuracy.values())):
            shares = [f"{100 * at[head]:.1f}" for at in ladder.accuracy.values()]
            split = ladder.split.get(head, {})
            halves = [
                f"{100 * split[key]:.1f}" if split else "-"
                for key in ("base_before", "base", "new", "harmonic_mean")
            ]
            rows.append((ladder.name, head, *shares, *halves, f"{ladder.latency_ms:g}"))
    for ladder in ladders:
        if ladder.zero_shot is not None:
            say(f"{ladder.name}: {100 * ladder.zero_shot:.1f} % by the names of the classes alone")
    shots = [count(n, "shot") for n in first.accuracy]
    halves = ["base before", "base", "new", "harmonic"]
    table(("encoder", "head", *shots, *halves, "ms an image"), rows)


def _write(out: Path, *, licence: str, accepted: str, terms: str, **arguments: Any) -> Bundle:
    from accrue_export.catalogue import PERMISSIVE, licence_text, require_acceptance
    from accrue_export.golden import golden_images
    from accrue_export.write import write_bundle

    what = arguments["name"]
    require_acceptance(licence, accepted, what)
    step: Step = shown
    return write_bundle(
        out,
        licence_name=licence,
        licence_text=terms or licence_text(licence, what),
        restricted=licence not in PERMISSIVE,
        golden=golden_images(),
        step=step,
        **arguments,
    )


def _written(bundle: Bundle, as_json: bool) -> None:
    from accrue.cli.bundles import summary

    about = summary(bundle)
    if as_json:
        emit(about)
        return
    manifest = bundle.manifest
    limits = ", which restricts its use" if manifest.licence_restricted else ""
    say(f"{bundle.path}: {manifest.name}, {manifest.dim} values, {manifest.size} px")
    say(f"licence: {manifest.licence_name}{limits}")
    say(f"space: {manifest.space_id}")
    say(f"next: accrue-export verify {bundle.path}")


def _need_free(out: Path) -> None:
    """Said before minutes are spent."""
    from accrue.errors import Conflict

    if out.exists():
        raise Conflict(f"{out} exists already", hint="give another path", path=str(out))
    if not out.parent.is_dir():
        raise NotFound(f"no folder {out.parent} to write into", path=str(out.parent))


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text!r}; expected three numbers, as in {option} 0.485,0.456,0.406",
            found=text,
        ) from None
    return r, g, b


def _text_of(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"cannot read {file}: {error}", path=str(file)) from error


@contextmanager
def _extra_needed() -> Iterator[None]:
    """A package of the extra that is not installed is an error of ours."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxscript", "safetensors", "torch"):
            raise
        raise AccrueError(
            f"{error.name} is not installed here", hint='pip install "accrue[export]"'
        ) from error


@contextmanager
def _one_line(words: Sequence[str], codes: list[int]) -> Iterator[None]:
    """Whatever is raised becomes a line on stderr and an exit code."""
    try:
        with _extra_needed():
            yield
    except AccrueError as error:
        note(f"accrue-export: {error.message}")
        if error.hint:
            note(f"  {error.hint}")
        if "--json" in words:
            emit({"error": error_object(error)})
        codes.append(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        note("accrue-export: interrupted; nothing was written")
        codes.append(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # words that typer refused
            error.show()
            codes.append(int(error.exit_code))
            return
        if os.environ.get("ACCRUE_DEBUG"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        note(f"accrue-export: {text}")
        note("  if this is not explained by the message, ACCRUE_DEBUG=1 shows where it came from")
        codes.append(1)


def main(arguments: list[str] | None = None) -> None:
    """Runs one call and leaves with its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may be no text in the stream's encoding
            stream.reconfigure(errors="backslashreplace")
    codes: list[int] = []
    with _one_line(words, codes):
        code = app(args=words, prog_name="accrue-export", standalone_mode=False)
        sys.stdout.flush()
        codes.append(code if isinstance(code, int) else 0)
    sys.exit(codes[0] if codes else 0)


if __name__ == "__main__":
    main()
