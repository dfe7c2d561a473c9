"""Any image file becomes RGB pixels, any other file one clear line."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accrue.errors import ImageError, NotFound
from accrue.vision.decode import DRAFT_GAP, decode


def encoded(image: Image.Image, kind: str, **save: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **save)
    return content.getvalue()


def refusal(data: bytes | Path) -> str:
    with pytest.raises(ImageError) as raised:
        decode(data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds nothing else."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP"])
def test_a_lossless_file_gives_its_pixels(kind: str) -> None:
    """From bytes and for every format; the array is uint8 (h, w, 3)."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2] = (255, 0, 0)
    pixels[2:, 3:] = (0, 0, 255)
    save = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), kind, **save)), pixels)


def test_a_jpeg_gives_what_pillow_gives(photo_file: Callable[..., Path]) -> None:
    """Bit for bit, from the path."""
    path = photo_file("a.jpg", quality=90)
    with Image.open(path) as image:
        expected = np.asarray(image)
    found = decode(path)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """All eight: the marked corner ends where a viewer shows it."""
    shown = np.full((40, 60, 3), 200, np.uint8)
    shown[:16, :16] = (250, 0, 0)  # top left, as it should be seen
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(shown)))
    found = decode(encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert found.shape == shown.shape
    assert np.abs(found.astype(int) - shown).max() < 25


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_a_broken_exif_block_counts_as_none(exif: bytes) -> None:
    """The pixels are whole; nothing is refused and nothing is printed."""
    image = Image.new("RGB", (30, 20), (10, 200, 30))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert decode(encoded(image, "JPEG", exif=exif)).shape == (20, 30, 3)
    assert seen == []


def test_transparency_is_laid_over_white() -> None:
    """Opaque stays, half is half, clear is white; for alpha, palettes and colour keys."""
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0] = (200, 0, 0, 255)
    rgba[:, 1] = (200, 0, 0, 128)
    found = decode(encoded(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(found[0], [(200, 0, 0), (227, 127, 127), (255, 255, 255)])
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    found = decode(encoded(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(found[0], [(255, 255, 255), (50, 60, 70)])
    grey = Image.fromarray(np.array([[7, 99], [7, 99]], np.uint8))
    found = decode(encoded(grey, "PNG", transparency=7))
    np.testing.assert_array_equal(found[0], [(255, 255, 255), (99, 99, 99)])


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey, bilevel, palette, grey with alpha and CMYK keep what is seen."""
    source = Image.new("L", (8, 8), 0)
    source.paste(255, (4, 0, 8, 8))
    converted = (source.convert("RGB") if mode == "CMYK" else source).convert(mode)
    found = decode(encoded(converted, "TIFF" if mode == "CMYK" else "PNG"))
    np.testing.assert_array_equal(found, np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    """65535 is white and 32768 the middle; Pillow's own conversion would clip at 255."""
    values = np.array([[0, 257, 32768, 65535]] * 2, np.uint16)
    found = decode(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(found[0, :, 0], [0, 1, 128, 255])


def test_pixels_without_a_range_are_refused() -> None:
    """Float and wide integer TIFFs are measurements, not pictures."""
    for values in (np.zeros((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)):
        text = refusal(encoded(Image.fromarray(values), "TIFF"))
        assert "expected 8 or 16 bits per channel" in text


def test_of_an_animation_the_first_frame_counts() -> None:
    """A GIF and a WebP of two frames."""
    first, second = (Image.new("RGB", (5, 4), c) for c in ((255, 0, 0), (0, 0, 255)))
    for kind, save in (("GIF", {}), ("WEBP", {"lossless": True})):
        content = encoded(first, kind, save_all=True, append_images=[second], **save)
        np.testing.assert_array_equal(decode(content)[0, 0], (255, 0, 0))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (b"just words\nand lines\n", "found text"),
        ("Grüße".encode() * 200, "found text"),
        (b"%PDF-1.7 ...", "found a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "found PostScript"),
        (b"PK\3\4rest", "found a zip archive"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "found a HEIC, AVIF or MP4 file"),
        (bytes(range(256)), "found unknown data"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    """Whatever its suffix says; the line has the path, what was found and what is read."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    text = refusal(path)
    assert text.startswith(f"{path} is no image that Accrue can read: {found}; expected JPEG")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(NotFound, match=f"^no file {tmp_path}/none.jpg$"):
        decode(tmp_path / "none.jpg")


def test_folders_pipes_and_impossible_paths_are_refused(tmp_path: Path) -> None:
    """A pipe would block for ever; a null byte is a ValueError deep in the system."""
    assert refusal(tmp_path) == f"{tmp_path} is a folder; expected an image file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "pipe.jpg is a device or pipe; expected an image file" in refusal(tmp_path / "pipe.jpg")
    null = refusal(Path("a\0.jpg"))  # Python 3.13 calls it a null character
    assert null.startswith(r"'a\x00.jpg' cannot be read: ")
    assert "embedded null" in null
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_is_one_line(photo_file: Callable[..., Path]) -> None:
    """With the system's words."""
    path = photo_file()
    path.chmod(0)
    assert refusal(path) == f"{path} cannot be read: Permission denied"


def test_an_unprintable_path_stays_on_one_line(tmp_path: Path) -> None:
    """A line break in a file name does not break the message."""
    with pytest.raises(NotFound, match=r"^no file '.*a\\nb\.jpg'$"):
        decode(tmp_path / "a\nb.jpg")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (50, 1)])
def test_an_image_of_one_pixel_is_refused(width: int, height: int) -> None:
    """No embedding says anything about it."""
    text = refusal(encoded(Image.new("RGB", (width, height)), "PNG"))
    assert text == f"image is {width} x {height} px; expected at least 2 x 2 px"


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (20_000, 20_000, "at most 16,384 px a side"),
        (20_000, 20, "at most 16,384 px a side"),
        (12_000, 12_000, "at most 100 megapixels"),
        (9_500, 10_600, "at most 100 megapixels"),
        (2**31 - 1, 2**31 - 1, "at most 16,384 px a side"),
    ],
)
def test_a_bomb_is_refused_by_its_header(width: int, height: int, expected: str) -> None:
    """The file holds no pixels at all, so nothing can have been decoded."""
    text = refusal(png_header(width, height))
    assert text == f"image is {width:,} x {height:,} px; expected {expected}"


def test_just_within_the_limits_pillow_has_nothing_to_warn_about() -> None:
    """Between Pillow's limit of 89 megapixels and ours of 100 the header passes in silence."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert "is damaged or cut off" in refusal(png_header(9_500, 10_000))
    assert seen == []


VARIANTS = [
    ("JPEG", {"quality": 85}),
    ("JPEG", {"quality": 85, "progressive": True}),
    ("PNG", {}),
    ("WEBP", {"quality": 80}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
    ("GIF", {}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("kind", "save"), VARIANTS)
def test_a_truncated_file_is_refused(
    photo: Callable[..., np.ndarray], kind: str, save: dict[str, object], tmp_path: Path
) -> None:
    """Half an image is no evidence: the message has the path."""
    content = encoded(Image.fromarray(photo(3)), kind, **save)
    path = tmp_path / "cut.img"
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * share)])
        text = refusal(path)
        assert text.startswith(f"{path} is ")
        assert "damaged or cut off" in text


@pytest.mark.parametrize(("kind", "save"), VARIANTS)
def test_broken_bytes_never_escape_as_another_error(
    photo: Callable[..., np.ndarray], kind: str, save: dict[str, object]
) -> None:
    """400 random cuts and changes per format: pixels or ImageError, and never a warning."""
    good = encoded(Image.fromarray(photo(4, (40, 32))), kind, **save)
    rng = np.random.default_rng([ord(c) for c in kind])
    messages = []
    for _ in range(400):
        content = bytearray(good[: rng.integers(1, len(good) + 1)] if rng.random() < 0.3 else good)
        reach = len(content) if rng.random() < 0.5 else min(len(content), 64)
        for at in rng.integers(0, reach, rng.integers(1, 6)):
            content[at] = rng.integers(0, 256)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                decode(bytes(content))
            except ImageError as error:
                messages.append(str(error))
        assert seen == []
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)


def test_a_large_jpeg_is_decoded_smaller_but_not_too_small() -> None:
    """4,000 px for a short side of 100: an eighth. Less than twice the gap: whole."""
    content = encoded(Image.new("RGB", (4_800, 4_000), (90, 40, 20)), "JPEG")
    assert decode(content, short_side=100).shape == (500, 600, 3)
    assert decode(content, short_side=600).shape == (2_000, 2_400, 3)
    assert decode(content, short_side=700).shape == (4_000, 4_800, 3)
    for short_side in (32, 100, 224, 333, 512):
        assert min(decode(content, short_side=short_side).shape[:2]) >= DRAFT_GAP * short_side


def test_the_smaller_decoding_keeps_orientation_and_colour() -> None:
    """A turned frame comes out upright at a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (1_600, 800), (200, 30, 30))
    found = decode(encoded(stored, "JPEG", exif=exif), short_side=60)
    assert found.shape == (400, 200, 3)
    assert np.abs(found.astype(int) - (200, 30, 30)).max() < 6


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_libtiff_prints_nothing_about_broken_pixels(
    photo: Callable[..., np.ndarray], capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    """It wrote to stderr by itself, under names of its own; only our line may appear."""
    good = encoded(Image.fromarray(photo(4, (40, 32))), "TIFF", compression=compression)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        content = bytearray(good)
        for at in rng.integers(8, len(content), 6):
            content[at] = rng.integers(0, 256)
        try:
            decode(bytes(content))
        except ImageError:
            refused += 1
    assert refused > 5
    assert capfd.readouterr() == ("", "")


def test_damaged_tiff_metadata_is_not_logged(
    photo: Callable[..., np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow logs an impossible channel count before it raises; only our line may appear."""
    content = bytearray(encoded(Image.fromarray(photo(4, (40, 32))), "TIFF"))
    at = content.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel, SHORT, one value
    content[at + 8 : at + 10] = struct.pack("<H", 2_048)
    assert "damaged or cut off" in refusal(bytes(content))
    assert capfd.readouterr() == ("", "")
