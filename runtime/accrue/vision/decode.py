"""From the bytes of an image file to RGB pixels, or to one clear line."""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from accrue.errors import ImageError, NotFound

Pixels = NDArray[np.uint8]

SMALLEST_SIDE_PX = 2
LARGEST_SIDE_PX = 16_384
LARGEST_IMAGE_PX = 100_000_000  # 400 MB in Pillow's memory
DRAFT_GAP = 3  # a JPEG is decoded no smaller than this many times the wanted short side
FORMATS = "JPEG, PNG, WebP, TIFF, BMP, GIF or PPM"
# Only these parsers ever see a file: others start programs (EPS) or are little tested.
_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    TiffImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    PpmImagePlugin,
)
_READERS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_HEAD_BYTES = 16
# What Pillow's parsers are known to raise on broken files, beside OSError and SyntaxError.
_BROKEN = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Warning,  # where Python runs with -W error
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF tag
_SIGNATURES = (
    (b"\xff\xd8\xff", "a damaged JPEG"),
    (b"\x89PNG", "a damaged PNG"),
    (b"GIF8", "a damaged GIF"),
    (b"II*\0", "a damaged TIFF"),
    (b"MM\0*", "a damaged TIFF"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\x7fELF", "a program"),
)
_warnings_lock = threading.Lock()
# Readers log what they then raise; without a handler Python would print it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(data: bytes | Path, *, short_side: int | None = None, name: str = "") -> Pixels:
    """The image as uint8 (height, width, 3) RGB, read-only.

    The EXIF orientation is applied (a broken EXIF block counts as none). Grey and palettes become
    RGB; transparency is laid over white; CMYK is converted without its profile, as are all colour
    profiles; 16 bits become 8 by scaling the full range; of an animation the first frame is taken.

    Args:
        data: the file's content, or its path (opened once).
        short_side: px; the caller will shrink the short side to this. A large JPEG is then decoded
            at a half, quarter or eighth, never below `DRAFT_GAP` times this: faster, and hardly
            different after shrinking.
        name: what messages call the image; by default the path.

    Raises:
        NotFound: there is no such file.
        ImageError: no image, a damaged one, or one that is too small or too large. The size is
            checked in the header, before any pixel is decoded.
    """
    if isinstance(data, Path):
        name = name or shown(data)
        with _opened(data, name) as file:
            return _decode(file, name, short_side)
    return _decode(io.BytesIO(data), name or "image", short_side)


def shown(path: str | Path) -> str:
    """A path as it can stand in a one-line message."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        mode = path.stat().st_mode  # before opening, which would wait for ever on a pipe
        file = path.open("rb") if stat.S_ISREG(mode) else None
    except FileNotFoundError as error:
        raise NotFound(f"no file {name}", path=str(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = _reason(error)
        raise ImageError(
            f"{name} cannot be read: {reason}", path=str(path), found=reason
        ) from error
    if file is None:
        found = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise ImageError(f"{name} is {found}; expected an image file", path=str(path), found=found)
    with file:
        yield file


def _decode(file: BinaryIO, name: str, short_side: int | None) -> Pixels:
    with _quiet(), _mapped(name):
        head = file.read(_HEAD_BYTES)
        image = _read_header(file, head)
    if image is None:
        found = _found(head, file)
        raise ImageError(
            f"{name} is no image that Accrue can read: found {found}; expected {FORMATS}",
            path=name,
            found=found,
            expected=FORMATS,
        )
    _check_size(image, name)
    with _mapped(name):
        if short_side is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, (DRAFT_GAP * short_side, DRAFT_GAP * short_side))
        # TIFF reads, and warns of, more metadata on loading; the rest can load side by side.
        if image.format == "TIFF":
            _silence_libtiff()
        with _quiet() if image.format == "TIFF" else nullcontext():
            image.load()
        with _quiet():
            turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image)
        if rgb is None:
            raise ImageError(
                f"{name} has pixels of mode {image.mode}; expected 8 or 16 bits per channel",
                path=name,
                found=image.mode,
                expected="8 or 16 bits per channel",
            )
        return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _read_header(file: BinaryIO, head: bytes) -> ImageFile | None:
    """The image, not decoded yet; None where no reader takes it.

    Like Image.open, but without its pixel limit, whose error does not tell the size, and without
    looking through the other readers of Pillow.
    """
    for reader in _READERS:
        factory, accept = Image.OPEN[reader]
        if accept is None or accept(head) is True:
            file.seek(0)
            return factory(file, "")
    return None


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE_PX:
        expected = f"at least {SMALLEST_SIDE_PX} x {SMALLEST_SIDE_PX} px"
    elif max(width, height) > LARGEST_SIDE_PX:
        expected = f"at most {LARGEST_SIDE_PX:,} px a side"
    elif width * height > LARGEST_IMAGE_PX:
        expected = f"at most {LARGEST_IMAGE_PX // 1_000_000} megapixels"
    else:
        return
    raise ImageError(
        f"{name} is {width:,} x {height:,} px; expected {expected}",
        path=name,
        found=(width, height),
        expected=expected,
    )


def _orientation(image: ImageFile) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:  # the pixels are whole, and cameras do write broken EXIF blocks
        return 1


def _to_rgb(image: Image.Image) -> Image.Image | None:
    """Mode RGB; None for pixels that have no agreed range (float, 32-bit integers)."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            return None
        grey = ((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)  # (h, w)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        return None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _mapped(name: str) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:  # a reader that looks before we can
        raise ImageError(
            f"{name} is too large: {_reason(error)}",
            path=name,
            found=_reason(error),
            expected=f"at most {LARGEST_IMAGE_PX:,} px",
        ) from error
    except _BROKEN as error:
        reason = _reason(error)
        raise ImageError(
            f"{name} is damaged or cut off: {reason}",
            hint="take or copy the image again",
            path=name,
            found=reason,
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow's warnings about odd metadata off the operator's screen.

    Warning filters belong to the process, hence the lock; pixels are decoded outside it.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _silence_libtiff() -> None:
    """Keeps libtiff from printing about broken files; what is wrong, Pillow raises.

    Pillow has no switch for it, so the handlers are taken out of the library that Pillow loaded.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return
    for name in {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libtiff" in line}:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            for handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                handler.argtypes, handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
                handler(None)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _found(head: bytes, file: BinaryIO) -> str:
    """What a file that is no image seems to be."""
    if not head:
        return "an empty file"
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return what
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or MP4 file"
    file.seek(0)
    sample = file.read(512)
    if b"\0" not in sample and sum(b < 9 for b in sample) == 0:
        try:
            sample[:-4].decode()  # the last character may be cut in two
        except UnicodeDecodeError:
            return "unknown data"
        return "text"
    return "unknown data"
