"""Settings: one YAML file, the environment, and flags, each value with its origin.

A flag goes before the environment, the environment before the file, the file before the default.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from accrue.board import AUTO, Board, board_names
from accrue.errors import ConfigError, NotFound
from accrue.learn import (
    HEADS,
    Calibrated,
    Cosine,
    Fused,
    Gaussian,
    Head,
    Prototype,
    RandomFeatures,
    Ridge,
)
from accrue.learn.clusters import MOST
from accrue.learn.guard import ALLOWED
from accrue.learn.random_features import LARGEST_WIDTH
from accrue.service.unknown import DEFAULT_MOMENTS
from accrue.store.memory import DEFAULT_MEMORY_BYTES
from accrue.store.store import DEFAULT_BUDGET_ROWS, Retain
from accrue.sync.discovery import fits_prefix
from accrue.vision.engines.selection import CANDIDATES

PATHS = (
    *("state", "bundle", "engines", "fleet_owner", "certificate", "certificate_key"),
    *("panel", "mqtt_password", "mqtt_ca"),
)
LARGEST_FILE_BYTES = 1 << 20
DEFAULT_LISTEN = "127.0.0.1:8420"
_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "accrue"


def default_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "accrue" / "accrue.yaml"


def default_actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without an account, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _key(meaning: str, default: Any) -> Any:
    return field(default=default, metadata={"meaning": meaning})


def _made(meaning: str, factory: Callable[[], Any]) -> Any:
    return field(default_factory=factory, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """What can be set; docs/reference/settings.md lists every key."""

    state: Path = _made("folder of the learned state", default_state)
    bundle: Path | None = _key("encoder bundle, folder or file; unset: the default one", None)
    views: int = _key("views of a shot, 1 to 16", 10)
    predict_views: int = _key("views that a query is the mean of, 1 to 16", 2)
    mirror: bool = _key("whether left and right may be exchanged in views", True)
    head: str = _key("auto, or the name of a head", AUTO)
    shrinkage: float | None = _key("of the cosine and gaussian heads; unset: by rule", None)
    ridge: float | None = _key("strength of the ridge heads; unset: cross-validated", None)
    random_features: int = _key("of a random-feature head that competes too; 0: none", 0)
    reject: float = _key("share of known objects that may be called unknown, 0 to 0.5", 0.05)
    budget: int = _key(
        "rows kept per class; others are folded into its statistics", DEFAULT_BUDGET_ROWS
    )
    memory: int = _key(
        "bytes of rows, thumbnails and statistics in all; 0: no limit", DEFAULT_MEMORY_BYTES
    )
    retain: Retain = _key("rows, or statistics: fold each shot at once", "rows")
    thumbnails: int = _key("longest side of a kept thumbnail in px; 0: keep none", 0)
    duplicates: float = _key("cosine to a kept shot from which a photo is not taught; 1: off", 0.97)
    blur: float = _key("blur above which a photo is not taught, 0 to 1; 1: off", 0.62)
    guard: float = _key("fall of left-out accuracy that a change may cause; 1: any", ALLOWED)
    unknown: int = _key("moments that nobody named yet to keep; 0: none", DEFAULT_MOMENTS)
    threads: int = _key("of the encoder; 0: one for each core", 0)
    encoder: str = _key("auto, or the best realisation that may serve", AUTO)
    engines: Path | None = _key("folder of engines; unset: `engines` in the state folder", None)
    board: str = _key("auto, the name of a board, or the path of a description", AUTO)
    actor: str = _made("who is written into the journal", default_actor)
    home_assistant: str = _key("discovery prefix of Home Assistant; empty: off", "")
    fleet_owner: Path | None = _key(
        "folder of a fleet's owner, with its private key; unset: this device decides nothing", None
    )
    cameras: tuple[str, ...] = _key("what `accrue run` watches", ())
    listen: str = _key("ADDRESS:PORT of the HTTP server", DEFAULT_LISTEN)
    hosts: tuple[str, ...] = _key("further names that browsers may call the device by", ())
    certificate: Path | None = _key(
        "PEM file of an own certificate; unset: by the device's CA", None
    )
    certificate_key: Path | None = _key("PEM file of its private key", None)
    teach_seconds: int = _key("after which a teach session that nobody touches ends", 120)
    viewers: int = _key("live pictures shown at once", 8)
    upload: int = _key("bytes of one request at most", 64 * 2**20)
    webhook: str | None = _key("URL that events are posted to", None)
    events: str | None = _key("file that events are appended to as JSON lines; -: stdout", None)
    panel: Path | None = _key(
        "file that tells a console how the device is reached; unset: none", None
    )
    mqtt: str | None = _key("mqtt://[USER@]HOST[:PORT]/PREFIX that events are sent to", None)
    mqtt_password: Path | None = _key("file with the password of that user", None)
    mqtt_ca: Path | None = _key(
        "PEM file of the CA of that broker, for mqtts://; unset: the system's", None
    )
    log: str = _key("form of the log: text or json", "text")

    @property
    def engines_folder(self) -> Path:
        return self.engines or self.state / "engines"

    def chosen_head(self) -> Head | None:
        """The head to serve, or None to let them compete."""
        cosine = Cosine() if self.shrinkage is None else Cosine(self.shrinkage)
        heads: dict[str, Head] = {
            Cosine.name: cosine,
            Calibrated.name: Calibrated(cosine),
            Gaussian.name: Gaussian(self.shrinkage),
            Ridge.name: Ridge(self.ridge),
            Prototype.name: Prototype(),
            RandomFeatures.name: RandomFeatures(self.random_features or 1024, self.ridge),
            Fused.name: Fused(cosine, Ridge(self.ridge)),
        }
        return heads.get(self.head)


@dataclass(frozen=True)
class Origin:
    """Where a setting comes from: "default", "file PATH", "environment NAME" or "flag --name"."""

    value: Any
    text: str


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> tuple[Settings, dict[str, Origin]]:
    """Settings from all their sources.

    Args:
        flags: values given on the command line; None means not given.
        environment: `ACCRUE_STATE`, `ACCRUE_BUNDLE` and so on, one for each key.
        file: the YAML file; None for `ACCRUE_CONFIG`, else the user's default file if it exists.

    Raises:
        ConfigError: a file that is missing, unreadable or not a mapping, a key that is not
            known, or a value that does not fit, with where it came from.
    """
    given = file or (
        Path(environment["ACCRUE_CONFIG"]) if environment.get("ACCRUE_CONFIG") else None
    )
    from_file = _read(given or default_file(), required=given is not None)
    path = given or default_file()
    origins: dict[str, Origin] = {}
    values: dict[str, Any] = {}
    for key in fields(Settings):
        name, variable = key.name, f"ACCRUE_{key.name.upper()}"
        if flags.get(name) is not None:
            raw, text = flags[name], f"flag --{name}"
        elif environment.get(variable):
            raw, text = environment[variable], f"environment {variable}"
        elif from_file.get(name) is not None:
            raw, text = from_file[name], f"file {path}"
        else:
            continue
        values[name] = _fit(name, raw, text)
        origins[name] = Origin(values[name], text)
    settings = Settings(**values)
    for key in fields(Settings):
        origins.setdefault(key.name, Origin(getattr(settings, key.name), "default"))
    return settings, {key.name: origins[key.name] for key in fields(Settings)}


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ConfigError(f"configuration {path} is larger than 1 MiB", path=str(path))
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(
            f"no configuration file {path}",
            hint="create it, or leave out --config and ACCRUE_CONFIG",
            path=str(path),
        ) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read configuration {path}: {reason}", path=str(path)) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"configuration {path} is a {type(found).__name__}; expected `key: value` lines",
            path=str(path),
        )
    known = [key.name for key in fields(Settings)]
    for name in found:
        if name not in known:
            raise ConfigError(
                f"unknown key {name!r} in {path}",
                hint=f"known keys: {', '.join(known)}",
                path=str(path),
                found=name,
            )
    return found


def _fit(name: str, raw: Any, origin: str) -> Any:
    """The value in its type and range."""

    def refuse(expected: str) -> ConfigError:
        return ConfigError(
            f"{name} is {str(raw)[:80]!r} ({origin}); expected {expected}",
            found=raw,
            expected=expected,
        )

    if name in PATHS:
        if not isinstance(raw, str | Path) or not str(raw):
            raise refuse("a path")
        try:
            return Path(raw).expanduser()
        except RuntimeError:  # ~name of nobody
            raise refuse("a path; its ~ leads nowhere") from None
    if name == "head":
        if raw not in (AUTO, *HEADS):
            raise refuse(f"{AUTO}, {', '.join(HEADS)}")
        return raw
    if name == "encoder":
        if raw not in (AUTO, *CANDIDATES):
            raise refuse(f"{AUTO}, {', '.join(CANDIDATES)}")
        return raw
    if name == "board":
        if not isinstance(raw, str | Path) or not str(raw):
            raise refuse(f"{AUTO}, {', '.join(board_names())}, or a path")
        if str(raw) == AUTO:
            return AUTO
        try:
            Board.load(str(raw))
        except NotFound as error:
            raise ConfigError(
                f"board is {str(raw)[:80]!r} ({origin}): {error.message}", hint=error.hint
            ) from None
        return str(raw)
    if name == "retain":
        if raw not in ("rows", "statistics"):
            raise refuse("rows or statistics")
        return raw
    if name == "actor":
        if not isinstance(raw, str) or len(raw) > 200:
            raise refuse("up to 200 characters")
        return raw
    if name in ("cameras", "hosts"):
        found = _several(raw)
        if found is None:
            raise refuse("a list of texts")
        return found
    if name == "listen":
        if not isinstance(raw, str) or address(raw) is None:
            raise refuse("ADDRESS:PORT, as in 127.0.0.1:8420, 0.0.0.0:8420 or [::1]:8420")
        return raw
    if name == "webhook":
        if not isinstance(raw, str) or not raw.startswith(("http://", "https://")):
            raise refuse("an address that starts with http:// or https://")
        return raw
    if name == "mqtt":
        if not isinstance(raw, str) or not _is_broker(raw):
            raise refuse(
                "mqtt://[USER@]HOST[:PORT]/PREFIX or mqtts://..., with a prefix of up to four "
                "levels that is not of a fleet; a password is in the file `mqtt_password`"
            )
        return raw
    if name == "events":
        if not isinstance(raw, str | Path) or not str(raw):
            raise refuse("a path, or - for stdout")
        return str(raw)
    if name == "log":
        if raw not in ("text", "json"):
            raise refuse("text or json")
        return raw
    if name == "home_assistant":
        if not isinstance(raw, str) or not fits_prefix(raw):
            raise refuse("a topic prefix such as homeassistant, without wildcards, or nothing")
        return raw
    if name in ("duplicates", "blur", "guard"):
        number = _number(raw, float)
        if number is None or not 0 < number <= 1:
            raise refuse("a number above 0, at most 1")
        return number
    if name in ("shrinkage", "ridge", "reject"):
        low, high = {"shrinkage": (0.0, 1.0), "ridge": (0.0, 1e6), "reject": (0.0, 0.5)}[name]
        number = _number(raw, float)
        if number is None or not low < number < high:
            raise refuse(f"a number between {low:g} and {high:g}, both exclusive")
        return number
    if name == "mirror":
        word = str(raw).lower()
        if word not in _YES + _NO:
            raise refuse("yes or no")
        return word in _YES
    low, high = {
        "views": (1, 16),
        "predict_views": (1, 16),
        "random_features": (0, LARGEST_WIDTH),
        "budget": (0, 2**23),
        "memory": (0, 2**50),
        "thumbnails": (0, 1024),
        "unknown": (0, MOST),
        "threads": (0, 1024),
        "teach_seconds": (10, 3600),
        "viewers": (0, 100),
        "upload": (2**16, 2**32),
    }[name]
    number = _number(raw, int)
    if number is None or not low <= number <= high:
        raise refuse(f"a whole number from {low} to {high:,}")
    return number


def _number(raw: Any, kind: type[int] | type[float]) -> Any:
    if isinstance(raw, bool) or (kind is int and isinstance(raw, float)):
        return None
    try:
        return kind(raw)
    except (TypeError, ValueError, OverflowError):
        return None


def _several(raw: Any) -> tuple[str, ...] | None:
    """A list of texts. One text is a list of one, unless it is written as a YAML list."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            raw = yaml.safe_load(raw)
        except yaml.YAMLError:
            return None
    if isinstance(raw, str | int) and not isinstance(raw, bool):  # `cameras: 0` is a number
        raw = [raw]
    if not isinstance(raw, list | tuple) or isinstance(raw, bool):
        return None
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in raw):
        return None
    texts = tuple(str(one) for one in raw)
    return texts if all(texts) else None


def _is_broker(text: str) -> bool:
    """Whether it names a broker and a prefix of one's own."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    prefix = parts.path.removeprefix("/").removesuffix("/")
    return (
        parts.scheme in ("mqtt", "mqtts")
        and bool(parts.hostname)
        and port != 0
        and parts.password is None
        and not set("?#") & set(text)
        and bool(prefix)
        and fits_prefix(prefix)
        and not prefix.startswith("accrue/v1")
    )


def address(listen: str) -> tuple[str, int] | None:
    """Host and port of ADDRESS:PORT; None where it is not that."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return None
    return host, int(port)
