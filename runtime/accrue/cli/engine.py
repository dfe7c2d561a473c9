"""`accrue engine`: build engines of the encoder, and see what serves and why."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accrue.cli.classes import Json
from accrue.cli.output import count, emit, note, progress, say, table, when
from accrue.cli.session import settings_of
from accrue.errors import UsageError

if TYPE_CHECKING:
    from accrue.service.engines import Engines
    from accrue.vision.engines import Engine

app = typer.Typer(
    help="Build engines of the encoder, and see what serves and why.", no_args_is_help=True
)


def _engines(context: typer.Context) -> Engines:
    from accrue.service.engines import Engines

    settings, _ = settings_of(context)
    return Engines(settings)


@app.command()
def build(
    context: typer.Context,
    flavour: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt-rtx; else the first that can.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="LEAST,BEST,MOST", help="Batch sizes that it takes; else the board's."
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32; else the board's, if the bundle has it.")
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            metavar="MIB",
            help="Most scratch memory of a layer; else the board's.",
        ),
    ] = None,
    if_needed: Annotated[
        bool,
        typer.Option(
            "--if-needed", help="Only where one would serve and none does; then clean, too."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Build an engine on this device, check it against the golden images, and let it serve."""
    from accrue.vision.engines import FLAVOURS

    _one_of("--flavour", flavour, FLAVOURS)
    _one_of("--precision", precision, ("fp16", "fp32"))
    profile = None if batch is None else _profile(batch)
    engines = _engines(context)
    chosen: dict[str, Any] = {
        "profile": profile,
        "workspace_mib": workspace,
        "precision": precision,
    }
    if if_needed:
        flavour, why = engines.needed(flavour=flavour, **chosen)
        if not flavour:
            if as_json:
                emit({"engine": None, "path": None, "unchecked": "", "reason": why})
            else:
                say(f"nothing to build: {why}")
            return
    with progress() as show, _until_interrupted() as cancelled:
        built = engines.build(flavour=flavour, step=show, cancelled=cancelled, **chosen)
    if if_needed:
        engines.clean()
    if as_json:
        about = summary(built.engine)
        emit({"engine": about, "path": built.path, "unchecked": built.unchecked})
        return
    engine = built.engine
    say(f"built {built.path} ({engine.bytes / 1e6:.1f} MB) in {engine.build_s:.1f} s")
    if built.unchecked:
        say("it does not serve yet: it could not be checked against the golden images")
        note(f"  {built.unchecked}")
        note("  where there is a GPU: accrue engine verify")
    else:
        say(_checked(engine))


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which realisation of the encoder serves here, why no better one, and the engines."""
    from accrue.vision.engines import CANDIDATES

    engines = _engines(context)
    found = engines.status()
    dropped = {drop.candidate: drop for drop in found.dropped}
    if as_json:
        emit(
            {
                "serves": found.serves,
                "chain": [
                    {
                        "candidate": name,
                        "serves": name == found.serves,
                        "filter": dropped[name].filter if name in dropped else None,
                        "reason": dropped[name].reason if name in dropped else "",
                        "hint": dropped[name].hint if name in dropped else "",
                    }
                    for name in CANDIDATES
                ],
                "engines": [
                    {**summary(engine), "place": place, "misfit": misfit}
                    for engine, place, misfit in found.engines
                ],
                "unreadable": [str(path) for path in found.unreadable],
                "device": found.device.document(),
            }
        )
        return
    for line in _about(engines):
        say(line)
    say("")
    for name in CANDIDATES:
        left = "serves" if name == found.serves else "could serve"
        say(f"{name:<14} {dropped.get(name, left)}")
    if found.engines:
        say("")
        rows = [
            (
                engine.stem,
                place or ("unchecked" if engine.parity is None else "kept"),
                f"{engine.bytes / 1e6:.1f} MB",
                when(engine.built_at),
                misfit or "fits",
            )
            for engine, place, misfit in found.engines
        ]
        table(["engine", "place", "size", "built", "fits"], rows)
    for path in found.unreadable:
        note(f"not readable, and never used: {path}; accrue engine clean")


@app.command()
def verify(
    context: typer.Context,
    engine: Annotated[
        str | None, typer.Argument(help="As `status` lists it; else the newest that fits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load an engine and check it against the golden images; if it passes, it serves."""
    checked = _engines(context).verify(engine)
    if as_json:
        emit({"engine": summary(checked)})
    else:
        say(_checked(checked))


@app.command()
def clean(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Remove every engine.")] = False,
    as_json: Json = False,
) -> None:
    """Remove engines that neither serve nor served before, and what a killed build left."""
    removed = _engines(context).clean(everything=everything)
    if as_json:
        emit({"removed": [str(path) for path in removed]})
        return
    for path in removed:
        say(f"removed {path}")
    say(f"{count(len(removed), 'file')} removed")


def summary(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.stem,
        "encoder": engine.encoder,
        "space_id": engine.space_id,
        "file": engine.file,
        "bytes": engine.bytes,
        "sha256": engine.sha256,
        "built_at": engine.built_at,
        "build_s": engine.build_s,
        "key": engine.key.document(),
        "checked_on": engine.checked_on,
        "parity": None if engine.parity is None else asdict(engine.parity),
    }


def _checked(engine: Engine) -> str:
    parity = engine.parity
    cosine = f"{parity.min_cosine:.6f}" if parity else "unknown"
    return f"engine {engine.stem} passed the golden check (least cosine {cosine}) and serves"


def _about(engines: Engines) -> Iterator[str]:
    """The device in a few lines."""
    device = engines.device
    gpu = device.gpu
    yield f"encoder   {engines.bundle.manifest.name}, at {engines.bundle.path}"
    model = f"{device.model}, " if device.model else ""
    yield f"device    {model}{device.machine}, Python {device.python}"
    yield f"board     {engines.board.name if engines.board else 'not known'}"
    if device.jetson:
        yield f"system    JetPack {device.jetpack or 'unknown'}, L4T {device.l4t}"
    if gpu is None:
        yield "GPU       none found"
    else:
        sms = f", {gpu.sm_count} multiprocessors" if gpu.sm_count else ""
        capability = gpu.compute_capability or "unknown"
        yield f"GPU       {gpu.name}, SM {capability}{sms}, CUDA {device.cuda or 'unknown'}"
    yield f"engines   {engines.folder.path}"


def _profile(text: str) -> Any:
    from accrue.vision.engines import Profile

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            f"--batch is {text!r}; expected three whole numbers: LEAST,BEST,MOST",
            hint="for one camera: --batch 1,1,8",
        )
    return Profile(*(int(part) for part in parts))


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise UsageError(f"{option} is {value!r}; expected {' or '.join(allowed)}")


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is asked for, not raised: an exception inside of TensorRT's callbacks would abort
    the process."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        note("stopping at the next step of the build ...")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: stopped
    finally:
        signal.signal(signal.SIGINT, before)
