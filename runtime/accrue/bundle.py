"""Reading and checking an encoder bundle: a folder, or the same as one zip file of stored entries.

A bundle holds ``manifest.json``, ``encoder.onnx``, golden images with their reference embeddings
and the licence of the weights. The manifest lists every other file with its SHA-256 and size; a
file that it does not list is never read. A bundle comes from outside, so nothing in it is believed
before it is checked: sizes before reading, hashes before use, names before they become paths.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from accrue.errors import AccrueError, BundleError, FutureVersion, NotFound

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
ENCODER_FP16 = "encoder.fp16.onnx"
GOLDEN_EMBEDDINGS = "golden/embeddings.npy"
MANIFEST_LIMIT_BYTES = 1 << 20  # a real one has about 3 KB
FILE_LIMIT = 10_000  # files in one bundle; a real one has about a dozen
LARGEST_DIM = 65_536
LARGEST_INPUT_PX = 4_096
INTERPOLATIONS = ("bicubic", "bilinear")
_SPACE_TAG = b"accrue-space-1"
_CHUNK_BYTES = 1 << 20
_AGAIN = "copy or export the bundle again"
_HEX64 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+ -]*(/[A-Za-z0-9_][A-Za-z0-9._+ -]*)*")


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image before the network; part of the embedding space's identity.

    Attributes:
        resize: length of the short side after resizing, px.
        crop: side of the centre crop, px; the network's input size.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        mean, std: per RGB channel, in units of 0..1; applied inside the graph.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def document(self) -> dict[str, Any]:
        """As in the manifest."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": [float(v) for v in self.mean],
            "std": [float(v) for v in self.std],
        }


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Precision:
    """Another realisation that the bundle carries, and how near it came to the reference.

    Attributes:
        file: its ONNX file, with the signature of ``encoder.onnx``.
        min_cosine, median_cosine: over the golden images, when the bundle was written.
        same_nearest: share of the golden images, 0 to 1, nearer to their own reference than to
            any other's.
    """

    file: str
    min_cosine: float
    median_cosine: float
    same_nearest: float


@dataclass(frozen=True)
class Manifest:
    name: str
    space_id: str
    dim: int
    size: int  # px, side of the square input
    preprocess: Preprocess
    source: str
    licence_name: str
    licence_restricted: bool
    files: Mapping[str, FileEntry]
    producer: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT_VERSION
    projection: None = None
    precisions: Mapping[str, Precision] = field(default_factory=dict)  # by name: "fp16"
    text: Mapping[str, Any] | None = None  # of the text tower; read by accrue.vision

    def document(self) -> dict[str, Any]:
        """As in ``manifest.json``."""
        document: dict[str, Any] = {
            "format": self.format,
            "name": self.name,
            "space_id": self.space_id,
            "dim": self.dim,
            "input": {"size": self.size, "colour": "RGB"},
            "preprocess": self.preprocess.document(),
            "projection": self.projection,
            "source": self.source,
            "licence": {"name": self.licence_name, "restricted": self.licence_restricted},
            "files": {
                name: {"sha256": entry.sha256, "bytes": entry.bytes}
                for name, entry in sorted(self.files.items())
            },
            "producer": dict(self.producer),
        }
        if self.precisions:
            document["precisions"] = {
                name: asdict(precision) for name, precision in sorted(self.precisions.items())
            }
        if self.text is not None:
            document["text"] = dict(self.text)
        return document


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def space_id(encoder_sha256: str, preprocess: Mapping[str, Any], projection: Any) -> str:
    """The identity of an embedding space, 64 hex characters.

    Args:
        encoder_sha256: of ``encoder.onnx``, 64 hex characters.
        preprocess: as in the manifest (`Preprocess.document`: mean and std as floats).
        projection: None in format 1.
    """
    return hashlib.sha256(
        b"\n".join(
            (
                _SPACE_TAG,
                encoder_sha256.encode(),
                canonical_json(preprocess),
                canonical_json(projection),
            )
        )
    ).hexdigest()


def is_entry_name(name: str) -> bool:
    """Whether a bundle may hold a file of this name: relative, forward slashes, no hidden part."""
    return len(name) <= 200 and _NAME.fullmatch(name) is not None and name != MANIFEST


def default_bundle_path() -> Path:
    """The folder of the encoder that comes with Accrue."""
    return Path(__file__).parent / "data" / "default-encoder"


class Bundle:
    """An encoder bundle whose form, sizes, space id and encoder have been checked.

    Attributes:
        path: the folder or file.
        manifest: what it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Check a bundle and return it; keeps no file open.

        Checked are the manifest, the presence and size of every listed file, the space id and the
        hash of the encoder. `read` and `verify` check the hashes of the others.

        Raises:
            NotFound: nothing is there.
            FutureVersion: a newer Accrue wrote it.
            BundleError: it is incomplete, altered or not a bundle.
        """
        path = Path(path)
        files = _Files.of(path)
        manifest = _parse(path, _read_manifest(path, files))
        for name, entry in manifest.files.items():
            found = files.size(name)
            if found is None:
                raise BundleError(
                    f"bundle {path} has no {name}, which its manifest lists",
                    hint=_AGAIN,
                    path=str(path),
                    file=name,
                )
            if found != entry.bytes:
                raise BundleError(
                    f"bundle {path}: {name} has {found:,} bytes; expected {entry.bytes:,}",
                    hint=_AGAIN,
                    path=str(path),
                    file=name,
                    found=found,
                    expected=entry.bytes,
                )
        expected = space_id(
            manifest.files[ENCODER].sha256, manifest.preprocess.document(), manifest.projection
        )
        if manifest.space_id != expected:
            raise BundleError(
                f"bundle {path}: its manifest says space id {manifest.space_id[:12]}…, but encoder "
                f"and preprocessing make {expected[:12]}…",
                hint=_AGAIN,
                path=str(path),
                found=manifest.space_id,
                expected=expected,
            )
        bundle = cls(path, manifest)
        bundle._check_hash(files, ENCODER)
        return bundle

    def read(self, name: str) -> bytes:
        """The content of a file, checked against its hash.

        Raises:
            NotFound: the manifest does not list it.
            BundleError: it is missing, cannot be read or was altered.
        """
        entry = self._entry(name)
        with _Files.of(self.path).open(name) as file:
            content = file.read(entry.bytes + 1)
        self._compare(name, len(content), hashlib.sha256(content).hexdigest())
        return content

    def verify(self) -> None:
        """Check the hash of every file, and that there is no other file.

        Raises:
            BundleError: names the file, what was found and what was expected.
        """
        files = _Files.of(self.path)
        for name in self.manifest.files:
            self._check_hash(files, name)
        for name in files.names():
            if name != MANIFEST and name not in self.manifest.files:
                raise BundleError(
                    f"bundle {self.path} holds {name!r}, which its manifest does not list",
                    hint="remove that file",
                    path=str(self.path),
                    file=name,
                )

    def golden(self) -> list[tuple[str, bytes, NDArray[np.float32]]]:
        """The golden images: file name, JPEG bytes and reference embedding float32 (dim,).

        Raises:
            BundleError: there are none, or images and embeddings do not fit together.
        """
        names = sorted(
            n for n in self.manifest.files if n.startswith("golden/") and n.endswith(".jpg")
        )
        if not names or GOLDEN_EMBEDDINGS not in self.manifest.files:
            raise BundleError(
                f"bundle {self.path} has no golden images; its encoder cannot be checked",
                hint="export the bundle again",
                path=str(self.path),
            )
        expected = (len(names), self.manifest.dim)
        embeddings = self.float32(GOLDEN_EMBEDDINGS, expected)
        return [(name, self.read(name), row) for name, row in zip(names, embeddings, strict=True)]

    def float32(self, name: str, expected: tuple[int, int]) -> NDArray[np.float32]:
        """A .npy file of the bundle as float32 of the expected shape; never unpickles.

        Raises:
            NotFound: the manifest does not list it.
            BundleError: it was altered, or is no such array, or holds what is not finite.
        """
        content = io.BytesIO(self.read(name))
        try:
            version = np.lib.format.read_magic(content)
            header = np.lib.format.read_array_header_1_0(content)
        except Exception as error:  # numpy reads the header as Python: SyntaxError, TokenError ...
            raise BundleError(
                f"bundle {self.path}: {name} is no array file: {_one_line(error)}",
                hint=_AGAIN,
                path=str(self.path),
                file=name,
            ) from error
        shape, fortran_order, dtype = header
        body = content.read()
        if (
            version != (1, 0)
            or shape != expected
            or dtype != np.dtype("<f4")
            or fortran_order
            or len(body) != 4 * math.prod(expected)
        ):
            raise BundleError(
                f"bundle {self.path}: {name} holds {dtype} {shape}; expected float32 {expected}",
                hint=_AGAIN,
                path=str(self.path),
                file=name,
                found=f"{dtype} {shape}",
                expected=f"float32 {expected}",
            )
        rows = np.frombuffer(body, "<f4").reshape(expected)
        if not np.isfinite(rows).all():
            raise BundleError(
                f"bundle {self.path}: {name} holds a value that is not finite",
                hint=_AGAIN,
                path=str(self.path),
                file=name,
            )
        return rows.astype(np.float32)

    def _entry(self, name: str) -> FileEntry:
        try:
            return self.manifest.files[name]
        except KeyError:
            raise NotFound(
                f"bundle {self.path} has no {name!r}; it has {', '.join(self.manifest.files)}",
                path=str(self.path),
                file=name,
            ) from None

    def _check_hash(self, files: _Files, name: str) -> None:
        size, digest = 0, hashlib.sha256()
        with files.open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                size += len(chunk)
                digest.update(chunk)
        self._compare(name, size, digest.hexdigest())

    def _compare(self, name: str, size: int, sha256: str) -> None:
        entry = self.manifest.files[name]
        if (size, sha256) != (entry.bytes, entry.sha256):
            raise BundleError(
                f"bundle {self.path}: {name} was altered: SHA-256 {sha256[:12]}…, "
                f"{size:,} bytes; expected {entry.sha256[:12]}…, {entry.bytes:,} bytes",
                hint=_AGAIN,
                path=str(self.path),
                file=name,
                found=sha256,
                expected=entry.sha256,
            )


class _Files:
    """The files of a bundle, whichever form it has. This one: a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(path: Path) -> _Files:
        with _reading(path):
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                return _Files(path)
            if stat.S_ISREG(mode):
                return _Zip(path)
        raise BundleError(
            f"{path} is no bundle: neither a folder nor a file", path=str(path), found="special"
        )

    def size(self, name: str) -> int | None:
        """In bytes; None where it is absent or not a file. Links are followed: hashes decide."""
        with _reading(self.path):
            try:
                status = (self.path / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return status.st_size if stat.S_ISREG(status.st_mode) else None

    def names(self) -> list[str]:
        with _reading(self.path):
            return sorted(
                p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()
            )

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with _reading(self.path, name), (self.path / name).open("rb") as file:
            yield file


class _Zip(_Files):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._sizes: dict[str, int] = {}
        with _reading(path), zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if len(entries) > FILE_LIMIT:
            raise BundleError(
                f"bundle {path} holds {len(entries):,} files; expected at most {FILE_LIMIT:,}",
                path=str(path),
            )
        for entry in entries:
            name = entry.filename
            if not is_entry_name(name.removesuffix("/")) and name != MANIFEST:
                raise BundleError(
                    f"bundle {path} holds an entry named {name!r}; expected a plain relative path",
                    hint="do not use a bundle of unknown origin",
                    path=str(path),
                    found=name,
                )
            if entry.is_dir():
                continue
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise BundleError(
                    f"bundle {path}: {name} is compressed or encrypted; expected a stored entry",
                    hint="pack it again, or: zip -0 -r FILE .",
                    path=str(path),
                    file=name,
                )
            if name in self._sizes:
                raise BundleError(
                    f"bundle {path} holds {name} twice", hint=_AGAIN, path=str(path), file=name
                )
            self._sizes[name] = entry.file_size

    def size(self, name: str) -> int | None:
        return self._sizes.get(name)

    def names(self) -> list[str]:
        return sorted(self._sizes)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with (
            _reading(self.path, name),
            zipfile.ZipFile(self.path) as archive,
            archive.open(name) as file,
        ):
            yield file


@contextmanager
def _reading(path: Path, name: str = "") -> Iterator[None]:
    """Turns what reading a bundle can raise into errors of ours."""
    what = f"bundle {path}: {name}" if name else f"bundle {path}"
    try:
        yield
    except AccrueError:
        raise
    except FileNotFoundError as error:
        if name:
            raise BundleError(
                f"{what} is missing", hint=_AGAIN, path=str(path), file=name
            ) from error
        raise NotFound(
            f"no bundle at {path}",
            hint="give the path of one: a folder, or a .accrue or .zip file",
            path=str(path),
        ) from error
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        if name:
            message = f"{what} cannot be read: {_one_line(error)}"
        else:
            message = f"{path} is no bundle: neither a folder nor a whole zip file"
        raise BundleError(message, hint=_AGAIN, path=str(path), file=name) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise BundleError(
            f"{what} cannot be read: {reason}", path=str(path), file=name, found=reason
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _read_manifest(path: Path, files: _Files) -> dict[str, Any]:
    size = files.size(MANIFEST)
    if size is None:
        raise BundleError(
            f"{path} is no bundle: it has no {MANIFEST}",
            hint=f"give the folder or file that holds {MANIFEST}",
            path=str(path),
            file=MANIFEST,
        )
    if size > MANIFEST_LIMIT_BYTES:
        raise BundleError(
            f"bundle {path}: {MANIFEST} has {size:,} bytes; "
            f"expected at most {MANIFEST_LIMIT_BYTES:,}",
            path=str(path),
            file=MANIFEST,
            found=size,
            expected=MANIFEST_LIMIT_BYTES,
        )
    with files.open(MANIFEST) as file:
        content = file.read(MANIFEST_LIMIT_BYTES)
    try:
        document = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"bundle {path}: {MANIFEST} is no JSON: {_one_line(error)}",
            hint=_AGAIN,
            path=str(path),
            file=MANIFEST,
        ) from error
    if not isinstance(document, dict):
        raise BundleError(
            f"bundle {path}: {MANIFEST} holds {_kind(document)}; expected an object",
            hint=_AGAIN,
            path=str(path),
            file=MANIFEST,
        )
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    names |= {int: "a whole number", float: "a number", type(None): "null"}
    return names[type(value)]


class _Reader:
    """Takes typed values out of the manifest, and says where one does not fit."""

    def __init__(self, path: Path, document: Mapping[str, Any], where: str = "") -> None:
        self.path, self.document, self.where = path, document, where

    def fail(self, key: str, expected: str) -> BundleError:
        value = self.document.get(key)
        found = "nothing" if key not in self.document else _kind(value)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        name = f"{self.where}{key}"
        return BundleError(
            f"bundle {self.path}: {MANIFEST} has {found} as {name!r}; expected {expected}",
            hint=_AGAIN,
            path=str(self.path),
            file=MANIFEST,
            key=name,
            found=found,
            expected=expected,
        )

    def text(self, key: str) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "text")
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.document.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low:,} to {high:,}")
        return value

    def flag(self, key: str) -> bool:
        value = self.document.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def sha256(self, key: str) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or not _HEX64.fullmatch(value):
            raise self.fail(key, "64 hexadecimal characters in lower case")
        return value

    def three(self, key: str, expected: str, *, above_zero: bool) -> tuple[float, float, float]:
        value = self.document.get(key)
        if (
            not isinstance(value, list)
            or len(value) != 3
            or any(type(v) not in (int, float) for v in value)
            or any(abs(v) > 1e6 or (above_zero and v <= 0) for v in value)
        ):
            raise self.fail(key, expected)
        r, g, b = (float(v) for v in value)
        return r, g, b

    def share(self, key: str) -> float:
        value: Any = self.document.get(key)
        if type(value) not in (int, float) or not -1 <= value <= 1:
            raise self.fail(key, "a number from -1 to 1")
        return float(value)

    def object(self, key: str) -> _Reader:
        value = self.document.get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return _Reader(self.path, value, f"{self.where}{key}.")


def _parse(path: Path, document: dict[str, Any]) -> Manifest:
    top = _Reader(path, document)
    version = top.whole("format", 1, 2**31)
    if version > FORMAT_VERSION:
        raise FutureVersion(
            f"bundle {path} has format {version}; this Accrue reads up to {FORMAT_VERSION}",
            hint="update Accrue on this device",
            path=str(path),
            found=version,
            expected=FORMAT_VERSION,
        )
    image = top.object("input")
    size = image.whole("size", 8, LARGEST_INPUT_PX)
    if image.document.get("colour") != "RGB":
        raise image.fail("colour", "'RGB'")
    preprocess = top.object("preprocess")
    crop = preprocess.whole("crop", size, size)
    interpolation = preprocess.text("interpolation")
    if interpolation not in INTERPOLATIONS:
        raise preprocess.fail("interpolation", " or ".join(map(repr, INTERPOLATIONS)))
    if "projection" not in document or document["projection"] is not None:
        raise top.fail("projection", "null")
    licence = top.object("licence")
    producer = top.object("producer")
    files = _parse_files(path, top.object("files"))
    text = document.get("text")
    return Manifest(
        name=top.text("name"),
        space_id=top.sha256("space_id"),
        dim=top.whole("dim", 1, LARGEST_DIM),
        size=size,
        preprocess=Preprocess(
            resize=preprocess.whole("resize", crop, 4 * LARGEST_INPUT_PX),
            crop=crop,
            interpolation=interpolation,
            mean=preprocess.three("mean", "three numbers", above_zero=False),
            std=preprocess.three("std", "three numbers above 0", above_zero=True),
        ),
        source=top.text("source"),
        licence_name=licence.text("name"),
        licence_restricted=licence.flag("restricted"),
        files=files,
        producer=MappingProxyType({key: producer.text(key) for key in producer.document}),
        format=version,
        precisions=_parse_precisions(top, files),
        text=MappingProxyType(text) if isinstance(text, dict) else None,
    )


def _parse_precisions(top: _Reader, files: Mapping[str, FileEntry]) -> Mapping[str, Precision]:
    if "precisions" not in top.document:
        return MappingProxyType({})
    listed = top.object("precisions")
    found = {}
    for name in sorted(listed.document):
        one = listed.object(name)
        file = one.text("file")
        if file not in files:
            raise one.fail("file", "the name of a file of the bundle")
        found[name] = Precision(
            file, one.share("min_cosine"), one.share("median_cosine"), one.share("same_nearest")
        )
    return MappingProxyType(found)


def _parse_files(path: Path, files: _Reader) -> Mapping[str, FileEntry]:
    if len(files.document) > FILE_LIMIT:
        raise BundleError(
            f"bundle {path} lists {len(files.document):,} files; expected at most {FILE_LIMIT:,}",
            path=str(path),
        )
    entries = {}
    for name in sorted(files.document):
        if not is_entry_name(name):
            raise BundleError(
                f"bundle {path} lists a file named {name!r}; expected a plain relative path",
                hint="do not use a bundle of unknown origin",
                path=str(path),
                found=name,
            )
        entry = files.object(name)
        entries[name] = FileEntry(entry.sha256("sha256"), entry.whole("bytes", 0, 2**40))
    if ENCODER not in entries:
        raise files.fail(ENCODER, "its SHA-256 and size")
    return MappingProxyType(entries)
