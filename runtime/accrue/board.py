"""What a kind of board is, and which board this device is.

Each file of ``device_configs`` describes one board; docs/reference/boards.md documents every key.
A file has the version of the schema that it was written for, and older ones are migrated. A file
with a key that is not known is refused, so that a slip of the pen never means the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from accrue.device import Device, describe, major_minor
from accrue.errors import ConfigError, FutureVersion, NotFound

AUTO = "auto"
SCHEMA_VERSION = 1
LARGEST_FILE_BYTES = 1 << 18  # a real one has about 5 KB
ARCHITECTURES = ("aarch64", "x86_64")
STORAGES = ("nvme", "sd", "usb", "emmc")
PLACEHOLDERS = ("sensor", "device", "width", "height", "fps", "flip", "url", "latency")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MODULE = re.compile(r"\bp(\d{4})-(\d{4})(-super)?\b")
_TNSPEC = re.compile(r"^(\d{4})-[^-]*-(\d{4})-")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_GIB = 2**30


def _key(meaning: str, default: Any = MISSING, **rules: Any) -> Any:
    """A key of the schema.

    Args:
        meaning: one line. rules: `choices`, `pattern` (of a text or of each of a list), `low` and
            `high` (of a number), `placeholders` (True for a camera pipeline).
    """
    metadata = {"meaning": meaning, **rules}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Identity:
    """By what a board is known."""

    modules: tuple[str, ...] = _key(
        "modules as they stand in the device tree's compatible, or in TNSPEC",
        (),
        pattern=r"p\d{4}-\d{4}",
    )
    compatible: tuple[str, ...] = _key("beginnings of an entry of compatible", ())
    models: tuple[str, ...] = _key("words of the model, asked where neither is there", ())
    memory_gib: tuple[int, ...] = _key("sizes of its memory as sold, GiB", (), low=1, high=4096)
    gpu: bool = _key("it has an NVIDIA GPU", False)


@dataclass(frozen=True)
class Compute:
    """What it computes with."""

    capability: tuple[str, ...] = _key(
        "compute capabilities that its GPU may have", (), pattern=r"\d+\.\d"
    )
    multiprocessors: int = _key("with all of them on; 0: not fixed", 0, low=0, high=1024)
    cpus: int = _key("cores with all of them on; 0: not fixed", 0, low=0, high=1024)
    nodes: tuple[str, ...] = _key("device nodes that CUDA opens", (), pattern=r"/dev/[\w/*-]+")


@dataclass(frozen=True)
class System:
    """One system that runs on it, with what that brings."""

    os: str = _key("ID and VERSION_ID of /etc/os-release", pattern=r"[a-z]+-[\d.]+")
    python: str = _key("of the system", pattern=r"3\.\d+")
    glibc: str = _key("of the system", pattern=r"2\.\d+")
    jetpack: str = _key("its JetPack; empty: no Jetson", "", pattern=r"|\d+\.\d+")
    l4t: tuple[str, ...] = _key("beginnings of its L4T", (), pattern=r"\d+(\.\d+)*")
    cuda: str = _key("that JetPack brings; empty: any", "", pattern=r"|\d+\.\d+")
    tensorrt: str = _key("that JetPack brings; empty: any", "", pattern=r"|\d+\.\d+(\.\d+)?")
    numpy: str = _key("constraint of pip; empty: any", "", pattern=r"|[<>=!~]=?\d+(\.\d+)*")

    @property
    def name(self) -> str:
        return f"JetPack {self.jetpack}" if self.jetpack else self.os


@dataclass(frozen=True)
class Encoder:
    """What it can encode with."""

    recommended: str = _key("bundle to begin with; default: the one that comes with Accrue")
    largest_mib: int = _key("largest ONNX file that it should be given, MiB", low=1, high=65536)


@dataclass(frozen=True)
class EngineAdvice:
    """What `accrue engine build` takes where it is not told otherwise."""

    precision: str = _key("of the encoder", "fp16", choices=("fp16", "fp32"))
    batch: tuple[int, ...] = _key("least, best and most images at once", (1, 1, 8), low=1, high=256)
    workspace_mib: int = _key("most scratch memory of a layer, MiB", 1024, low=1, high=65536)


@dataclass(frozen=True)
class Mode:
    """A power mode of nvpmodel."""

    name: str = _key("as nvpmodel.conf has it", pattern=r"[A-Z0-9_]+")
    id: int = _key("expected on the plain board; -1: not there", -1, low=-1, high=99)
    super_id: int = _key("expected on the Super board; -1: not there", -1, low=-1, high=99)
    multiprocessors: int = _key("that are on in it; 0: not known", 0, low=0, high=1024)


@dataclass(frozen=True)
class Power:
    """Power modes."""

    file: str = _key("that lists the modes on the board; empty: it has none", "")
    prefer: tuple[str, ...] = _key("modes to use, best first: the first that is there", ())
    modes: tuple[Mode, ...] = _key("that are known", ())


@dataclass(frozen=True)
class Cameras:
    """Pipelines of GStreamer that end in raw video in the system's memory, without a sink."""

    csi: str = _key("a camera on the ribbon cable; empty: none", "", placeholders=True)
    usb: str = _key("a camera on USB; empty: by OpenCV alone", "", placeholders=True)
    rtsp_h264: str = _key("a stream in H.264; empty: by OpenCV alone", "", placeholders=True)
    rtsp_h265: str = _key("a stream in H.265; empty: by OpenCV alone", "", placeholders=True)
    width: int = _key("asked for, px", 1280, low=16, high=8192)
    height: int = _key("asked for, px", 720, low=16, high=8192)
    fps: int = _key("asked for, frames a second", 30, low=1, high=240)
    latency_ms: int = _key("that a stream is buffered, ms", 100, low=0, high=10000)


@dataclass(frozen=True)
class Sensors:
    """Where temperatures, throttling and power are read."""

    zones: tuple[str, ...] = _key("thermal zones that it has at least", (), pattern=r"[\w.-]+")
    warn_c: int = _key("from which the doctor warns, degrees Celsius", 85, low=30, high=120)
    throttles: tuple[str, ...] = _key(
        "types of cooling devices that are on while it throttles", (), pattern=r"[\w.-]+"
    )
    power: tuple[str, ...] = _key("hwmon names that have power rails", (), pattern=r"[\w.-]+")
    alarms: tuple[str, ...] = _key(
        "hwmon names that tell of over-current or under-voltage", (), pattern=r"[\w.-]+"
    )
    led: str = _key("LED of /sys/class/leds that shows the state; empty: none", "")


@dataclass(frozen=True)
class Storage:
    """Room that it needs on the disk."""

    release_mib: int = _key("one installed release, MiB; two are kept", low=1, high=1 << 20)
    engines_mib: int = _key("engines, MiB", low=0, high=1 << 20)
    state_mib: int = _key("what is learned, its copies while writing, and logs, MiB", low=1)

    @property
    def total_mib(self) -> int:
        return 2 * self.release_mib + self.engines_mib + self.state_mib


@dataclass(frozen=True)
class Target:
    """A configuration of NVIDIA's flashing tools."""

    conf: str = _key("name of the .conf file, without its ending", pattern=r"[a-z0-9-]+")
    l4t: tuple[str, ...] = _key("beginnings of the L4T that have it", pattern=r"\d+(\.\d+)*")
    super: bool = _key("it allows the higher power modes", False)


@dataclass(frozen=True)
class Way:
    """How one kind of storage is flashed: ``sudo ./TOOL ARGUMENTS CONF ROOT``."""

    storage: str = _key("that takes the root file system", choices=STORAGES)
    l4t: tuple[str, ...] = _key("beginnings of the L4T that it is for", pattern=r"\d+(\.\d+)*")
    tool: str = _key("path in Linux_for_Tegra", pattern=r"[\w./-]+")
    root: str = _key("last word of the command", choices=("internal", "external"))
    arguments: tuple[str, ...] = _key("before the configuration", ())
    least_gb: int = _key("size of the storage that its partitions expect, GB", 64, low=1)
    source: str = _key("where this command is from", "")


@dataclass(frozen=True)
class Flash:
    """How it is flashed. Empty where it is not by NVIDIA's tools."""

    recovery_usb: tuple[str, ...] = _key(
        "USB ids in recovery mode", (), pattern=r"[0-9a-f]{4}:[0-9a-f]{4}"
    )
    board_id: str = _key("BOARDID of the EEPROM", "", pattern=r"|\d{4}")
    board_skus: tuple[str, ...] = _key("BOARDSKU of the EEPROM", (), pattern=r"\d{4}")
    fab: str = _key("FAB of the EEPROM as seen; empty: not known", "", pattern=r"|\w+")
    apply_binaries: tuple[str, ...] = _key("arguments of apply_binaries.sh", ())
    reset_after: bool = _key("it has to be reset by hand after flashing", False)
    targets: tuple[Target, ...] = _key("configurations", ())
    ways: tuple[Way, ...] = _key("by storage; the first of a storage and L4T counts", ())

    def way(self, storage: str, l4t: str) -> Way | None:
        """None where it is not known how."""
        return next((w for w in self.ways if w.storage == storage and begins(l4t, w.l4t)), None)

    def target(self, l4t: str, *, super: bool) -> Target | None:
        """None where that L4T has none."""
        fitting = (t for t in self.targets if t.super == super and begins(l4t, t.l4t))
        return next(fitting, None)


@dataclass(frozen=True)
class Board:
    """A kind of board."""

    version: int = _key("of the schema", low=1)
    name: str = _key("as the setting `board` takes it; the file's name", pattern=_NAME.pattern)
    title: str = _key("for people")
    architecture: str = _key("of its processor, as uname -m", choices=ARCHITECTURES)
    identity: Identity = _key("by what it is known")
    systems: tuple[System, ...] = _key("that run on it")
    encoder: Encoder = _key("what it can encode with")
    storage: Storage = _key("room that it needs on the disk")
    engine: EngineAdvice = _key("defaults of accrue engine build", EngineAdvice())
    compute: Compute = _key("what it computes with", Compute())
    power: Power = _key("power modes", Power())
    cameras: Cameras = _key("pipelines", Cameras())
    sensors: Sensors = _key("temperatures, throttling, power, LED", Sensors())
    flash: Flash = _key("how it is flashed", Flash())

    @classmethod
    def load(cls, name_or_path: str | Path) -> Board:
        """One of `board_names`, or a file of one's own (a word with a ``/`` or ``.``).

        Raises:
            NotFound: there is none.
            ConfigError: the file does not fit the schema; the message names the key.
            FutureVersion: a newer Accrue wrote it.
        """
        text = str(name_or_path)
        if isinstance(name_or_path, str) and _NAME.fullmatch(text):
            path = boards_folder() / f"{text}.yaml"
            if not path.is_file():
                raise NotFound(
                    f"no board {text!r}",
                    hint=f"known boards: {', '.join(board_names())}",
                    found=text,
                )
            return _read(path)
        return _read(Path(text))

    @property
    def jetson(self) -> bool:
        return any(system.jetpack for system in self.systems)

    def system(self, name: str) -> System:
        """The one of this JetPack ("6.2", also for 6.2.1) or system ("debian-12").

        Raises:
            NotFound: the board has no such system.
        """
        for system in self.systems:
            if name and (
                system.os == name if not system.jetpack else begins(name, (system.jetpack,))
            ):
                return system
        known = ", ".join(dict.fromkeys(s.jetpack or s.os for s in self.systems))
        what = "JetPack" if self.jetson else "system"
        raise NotFound(
            f"board {self.name} has no {what} {name!r}; expected {known}",
            found=name,
            expected=known,
        )

    def system_of(self, device: Device) -> System | None:
        """The one that runs on a device; None for one that is not known."""
        if self.jetson:
            return next((s for s in self.systems if begins(device.l4t, s.l4t)), None)
        return next((s for s in self.systems if s.os == device.os), None)


def begins(version: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a version is one of these or begins with one: 36.4.3 with 36.4, not with 36.40."""
    parts = version.split(".")
    return any(parts[: len(p)] == p for p in (prefix.split(".") for prefix in prefixes))


def boards_folder() -> Path:
    """Where the descriptions are: in the package, or beside the sources."""
    packed = Path(__file__).parent / "boards"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "device_configs"


def board_names() -> tuple[str, ...]:
    """Of all boards that come with Accrue, sorted."""
    return tuple(sorted(path.stem for path in boards_folder().glob("*.yaml")))


def boards() -> Iterator[Board]:
    for name in board_names():
        yield Board.load(name)


# ---- which board a device is -----------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """One fact of a device beside what its board lets expect."""

    name: str
    expected: str
    found: str


@dataclass(frozen=True)
class Match:
    """Which board a device is.

    Attributes:
        board: None where none fits.
        by: what it was known by, in a few words; or why none fits.
        matched, differing: facts as expected, and others. What could not be read is in neither.
    """

    board: Board | None
    by: str
    matched: tuple[Fact, ...] = ()
    differing: tuple[Fact, ...] = ()


def module_of(device: Device) -> tuple[str, str]:
    """The module as "p3767-0005" and where it stands; ("", "") where it stands nowhere.

    In compatible, ``nvidia,p3768-0000+p3767-0005-super`` names the carrier first, so the last
    module of the first entry that has one counts. Carriers rewrite the model, never this.
    """
    for entry in device.compatible:
        if found := _MODULE.findall(entry):
            return f"p{found[-1][0]}-{found[-1][1]}", "compatible"
    if tnspec := _TNSPEC.match(device.tnspec):
        return f"p{tnspec[1]}-{tnspec[2]}", "TNSPEC"
    return "", ""


def is_super(device: Device) -> bool:
    """Whether its firmware was flashed with the higher power modes."""
    return any(m[2] for entry in device.compatible for m in _MODULE.findall(entry))


def match(device: Device) -> Match:
    """The board of a device that fits best, and which facts are as expected."""
    claims = [(board, _claim(board, device)) for board in boards()]
    strength, by = max((claim for _, claim in claims), default=(0, ""))
    if not strength:
        what = f"module {module_of(device)[0]}" if module_of(device)[0] else device.model
        return Match(None, f"no board is known for {what or device.machine}")
    board = next(board for board, claim in claims if claim == (strength, by))
    return compare(board, device, by)


def compare(board: Board, device: Device, by: str = "the setting board") -> Match:
    """The facts of a device against those of a board that was named."""
    facts = list(_facts(board, device))
    return Match(
        board,
        by,
        tuple(fact for fact, fits in facts if fits),
        tuple(fact for fact, fits in facts if not fits),
    )


def which(setting: str, device: Device | None = None) -> Match:
    """The board in force.

    Args:
        setting: ``auto``, or a name or path as for `Board.load`.
        device: default: this one.

    Raises:
        as `Board.load`.
    """
    here = describe() if device is None else device
    return match(here) if setting == AUTO else compare(Board.load(setting), here)


def _claim(board: Board, device: Device) -> tuple[int, str]:
    """How sure it is that the device is this board, from 0, and why."""
    identity = board.identity
    if device.machine != board.architecture:
        return 0, ""
    module, where = module_of(device)
    if module:
        return (5, f"module {module} in {where}") if module in identity.modules else (0, "")
    for beginning in identity.compatible:
        if any(entry.startswith(beginning) for entry in device.compatible):
            return 4, f"{beginning} in compatible"
    if any(words in device.model for words in identity.models):
        if identity.memory_gib and _sold_gib(device) not in identity.memory_gib:
            return 0, ""
        size = f" and {_sold_gib(device)} GiB" if identity.memory_gib else ""
        return 3, f"model {device.model}{size}"
    if board.jetson or device.jetson or identity.compatible:
        return 0, ""
    if identity.gpu == (device.gpu is not None):
        return 2, f"{device.machine} {'with' if identity.gpu else 'without'} an NVIDIA GPU"
    return 0, ""


def _sold_gib(device: Device) -> int:
    """Memory as it is sold: firmware keeps up to an eighth of it for itself."""
    total = device.memory_total_bytes / _GIB
    sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    return next((size for size in sizes if total <= size), 0)


def _facts(board: Board, device: Device) -> Iterator[tuple[Fact, bool]]:
    """Each fact that can be told, and whether it fits."""
    identity, gpu = board.identity, device.gpu
    yield (
        Fact("processor", board.architecture, device.machine),
        device.machine == board.architecture,
    )
    if identity.modules:
        found = module_of(device)[0]
        if found:
            yield Fact("module", " or ".join(identity.modules), found), found in identity.modules
    if identity.memory_gib and device.memory_total_bytes:
        size = _sold_gib(device)
        expected = " or ".join(f"{gib} GiB" for gib in identity.memory_gib)
        yield Fact("memory", expected, f"{size} GiB"), size in identity.memory_gib
    if board.compute.cpus and device.cpus:
        fits = device.cpus == board.compute.cpus
        yield Fact("cores", str(board.compute.cpus), str(device.cpus)), fits
    if identity.gpu != (gpu is not None):
        words = ("none", "an NVIDIA GPU")
        yield Fact("GPU", words[identity.gpu], gpu.name if gpu else "none"), False
    if gpu and gpu.compute_capability and board.compute.capability:
        expected = ", ".join(board.compute.capability)
        fits = gpu.compute_capability in board.compute.capability
        yield Fact("compute capability", expected, gpu.compute_capability), fits
    if not (device.l4t or device.os):
        return
    system = board.system_of(device)
    if system is None:
        known = ", ".join(f"L4T {'/'.join(s.l4t)}" if s.l4t else s.os for s in board.systems)
        yield Fact("system", known, f"L4T {device.l4t}" if device.l4t else device.os), False
        return
    here = f"JetPack {device.jetpack}, L4T {device.l4t}" if device.jetson else device.os
    yield Fact("system", system.name, here), True
    for name, expected, found in (
        # Elsewhere an environment may bring a Python of its own; JetPack's TensorRT has one.
        ("Python", system.python if system.jetpack else "", device.python),
        ("glibc", system.glibc, device.glibc),
        ("CUDA", system.cuda, device.cuda),
        ("TensorRT", system.tensorrt, device.tensorrt_system),
    ):
        if expected and found:
            yield Fact(name, expected, found), begins(found, (expected,))
    numpy = device.package("numpy")
    if system.numpy and numpy:
        yield Fact("numpy", system.numpy, numpy.version), _fits(numpy.version, system.numpy)


def _fits(version: str, constraint: str) -> bool:
    """Whether a version meets ``<2`` or ``>=2``, by its first two numbers."""
    operator, wanted = re.fullmatch(r"([<>=!~]=?)(.+)", constraint).groups()  # type: ignore[union-attr]
    here, there = major_minor(version), major_minor(wanted)
    return {"<": here < there, ">=": here >= there, "==": here == there}.get(operator, True)


# ---- reading a file -----------------------------------------------------------------------------

# From each version of the schema to the next: document in, document out.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def _read(path: Path) -> Board:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ConfigError(f"board {path} is larger than 256 KiB", path=str(path))
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"no board file {path}",
            hint=f"known boards: {', '.join(board_names())}",
            path=str(path),
        ) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read board {path}: {reason}", path=str(path)) from None
    return parse(document, str(path), MIGRATIONS)


def parse(
    document: Any,
    path: str,
    migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MIGRATIONS,
    newest: int = SCHEMA_VERSION,
) -> Board:
    """The board that a document describes.

    Args:
        path: for messages. migrations, newest: of the schema.

    Raises:
        ConfigError: it does not fit the schema. FutureVersion: a newer Accrue wrote it.
    """
    if not isinstance(document, dict):
        raise ConfigError(
            f"board {path} is a {type(document).__name__}; expected `key: value` lines", path=path
        )
    version = document.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(
            f"version in {path} is {version!r}; expected a whole number from 1 to {newest}",
            path=path,
        )
    if version > newest:
        raise FutureVersion(
            f"board {path} is of version {version}; this Accrue reads up to {newest}",
            hint="install a newer Accrue",
            path=path,
            found=version,
            expected=newest,
        )
    for older in range(version, newest):
        document = {**migrations[older](document), "version": older + 1}
    board: Board = _build(Board, document, "", path)
    if len(board.engine.batch) != 3 or list(board.engine.batch) != sorted(board.engine.batch):
        raise _refused("engine.batch", list(board.engine.batch), "three numbers, ascending", path)
    return board


def _refused(key: str, found: Any, expected: str, path: str) -> ConfigError:
    return ConfigError(
        f"{key} in {path} is {str(found)[:80]!r}; expected {expected}",
        hint="docs/reference/boards.md documents every key",
        path=path,
        found=str(found)[:80],
        expected=expected,
    )


def _build(kind: type[Any], document: Any, where: str, path: str) -> Any:
    """A dataclass from a mapping, each key checked."""
    if not isinstance(document, dict):
        raise _refused(where, document, "keys and values", path)
    known = [key.name for key in fields(kind)]
    for name in document:
        if name not in known:
            raise ConfigError(
                f"unknown key {_dotted(where, str(name))} in {path}",
                hint=f"known keys there: {', '.join(known)}",
                path=path,
                found=str(name),
            )
    hints = get_type_hints(kind)
    values = {}
    for key in fields(kind):
        dotted = _dotted(where, key.name)
        if key.name in document:
            values[key.name] = _value(
                hints[key.name], document[key.name], dotted, path, key.metadata
            )
        elif key.default is MISSING:
            raise ConfigError(
                f"{dotted} is missing in {path}",
                hint=f"it says: {key.metadata['meaning']}",
                path=path,
                expected=dotted,
            )
    return kind(**values)


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(kind: Any, raw: Any, where: str, path: str, rules: Mapping[str, Any]) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise _refused(where, raw, "a list", path)
        item = get_args(kind)[0]
        return tuple(
            _value(item, one, f"{where}[{index}]", path, rules) for index, one in enumerate(raw)
        )
    if is_dataclass(kind):
        return _build(kind, raw, where, path)  # type: ignore[arg-type]
    if kind is bool:
        if not isinstance(raw, bool):
            raise _refused(where, raw, "true or false", path)
        return raw
    if kind is int:
        low, high = rules.get("low", 0), rules.get("high", 2**31)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise _refused(where, raw, f"a whole number from {low} to {high}", path)
        return raw
    if not isinstance(raw, str):
        raise _refused(where, raw, "a text (in quotes where it looks like a number)", path)
    if "choices" in rules and raw not in rules["choices"]:
        raise _refused(where, raw, " or ".join(rules["choices"]), path)
    if "pattern" in rules and not re.fullmatch(rules["pattern"], raw):
        raise _refused(where, raw, f"a text like {rules['pattern']}", path)
    for name in _PLACEHOLDER.findall(raw) if "placeholders" in rules else ():
        if name not in PLACEHOLDERS:
            raise _refused(where, f"{{{name}}}", " or ".join(PLACEHOLDERS), path)
    return raw
