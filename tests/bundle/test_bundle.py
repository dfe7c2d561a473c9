"""A bundle is believed only as far as it has been checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.bundle import (
    MANIFEST_LIMIT_BYTES,
    Bundle,
    Preprocess,
    canonical_json,
    default_bundle_path,
    is_entry_name,
    space_id,
)
from accrue.errors import BundleError, FutureVersion, NotFound

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Edit) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def relist(bundle: Path, name: str, content: bytes) -> None:
    """Replace a file and list it rightly, as a forger would."""
    (bundle / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(bundle, lambda m: m["files"].update({name: entry}))


def zipped(bundle: Path, out: Path, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(out, "w", compression) as archive:
        for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(bundle).as_posix())
        for name, content in more.items():
            archive.writestr(name, content)
    return out


def refusal(path: Path, kind: type[Exception] = BundleError) -> str:
    with pytest.raises(kind) as raised:
        Bundle.open(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_intact_bundle_tells_what_it_is(tiny_bundle: Path) -> None:
    """Every field of the manifest arrives typed, and verify() finds nothing."""
    opened = Bundle.open(str(tiny_bundle))
    opened.verify()
    manifest = opened.manifest
    assert (manifest.name, manifest.dim, manifest.size) == ("tiny", 64, 32)
    assert manifest.preprocess == Preprocess(36, 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert (manifest.licence_name, manifest.licence_restricted) == ("Apache-2.0", False)
    assert manifest.document() == json.loads((tiny_bundle / "manifest.json").read_text())
    assert opened.read("LICENSE.txt") == b"Made by the tests.\n"


def test_golden_images_come_in_the_order_of_their_names(tiny_bundle: Path) -> None:
    """Row i of the embeddings belongs to the i-th name."""
    golden = Bundle.open(tiny_bundle).golden()
    names = [name for name, _, _ in golden]
    assert names == sorted(names)
    assert len(names) == 8
    rows = np.load(tiny_bundle / "golden/embeddings.npy")
    for (name, jpeg, row), expected in zip(golden, rows, strict=True):
        assert jpeg == (tiny_bundle / name).read_bytes()
        np.testing.assert_array_equal(row, expected)
        assert row.dtype == np.float32


def test_a_zip_file_is_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    """Folder and file give equal manifests and contents."""
    folder, file = Bundle.open(bundle), Bundle.open(zipped(bundle, tmp_path / "b.zip"))
    file.verify()
    assert file.manifest == folder.manifest
    assert all(file.read(name) == folder.read(name) for name in folder.manifest.files)


def test_space_id_is_the_documented_hash() -> None:
    """A second implementation can compute it from the documentation alone."""
    preprocess = Preprocess(36, 32, "bicubic", (0.5, 0.5, 0.5), (1, 1, 1)).document()
    text = (
        "accrue-space-1\n" + "ab" * 32 + '\n{"crop":32,"interpolation":"bicubic",'
        '"mean":[0.5,0.5,0.5],"resize":36,"std":[1.0,1.0,1.0]}\nnull'
    )
    assert space_id("ab" * 32, preprocess, None) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        Preprocess(37, 32, "bicubic", (0.5,) * 3, (0.5,) * 3),
        Preprocess(36, 32, "bilinear", (0.5,) * 3, (0.5,) * 3),
        Preprocess(36, 32, "bicubic", (0.5, 0.5, 0.4), (0.5,) * 3),
        Preprocess(36, 32, "bicubic", (0.5,) * 3, (0.5, 0.5, 0.4)),
    ],
)
def test_any_difference_in_preprocessing_is_another_space(other: Preprocess) -> None:
    """Statistics of two preprocessings never get the same space id."""
    base = Preprocess(36, 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert space_id("a" * 64, base.document(), None) != space_id("a" * 64, other.document(), None)


def test_canonical_json_has_one_form_per_value() -> None:
    """Key order does not matter, and letters stay themselves."""
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    """The message names the path and how to give one."""
    text = refusal(tmp_path / "none", NotFound)
    hint = "give the path of one: a folder, or a .accrue or .zip file"
    assert text == f"no bundle at {tmp_path}/none; {hint}"


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    """Any other folder is refused by what it lacks."""
    assert f"{tmp_path} is no bundle: it has no manifest.json" in refusal(tmp_path)


def test_any_other_file_is_no_bundle(tmp_path: Path) -> None:
    """Text, an empty file and a pipe are each refused in one line."""
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "is no bundle: neither a folder nor a whole zip file" in refusal(text)
    text.write_bytes(b"")
    assert "is no bundle: neither a folder nor a whole zip file" in refusal(text)
    os.mkfifo(tmp_path / "pipe")
    assert "is no bundle: neither a folder nor a file" in refusal(tmp_path / "pipe")


def test_a_truncated_encoder_is_refused_by_its_size(bundle: Path) -> None:
    """The message says found and expected."""
    encoder = bundle / "encoder.onnx"
    size = encoder.stat().st_size
    encoder.write_bytes(encoder.read_bytes()[:-7])
    assert f"encoder.onnx has {size - 7:,} bytes; expected {size:,}" in refusal(bundle)


def test_a_changed_byte_in_the_encoder_is_refused(bundle: Path) -> None:
    """One bit, same size: the hash tells."""
    encoder = bundle / "encoder.onnx"
    content = bytearray(encoder.read_bytes())
    content[len(content) // 2] ^= 1
    encoder.write_bytes(content)
    text = refusal(bundle)
    assert "encoder.onnx was altered: SHA-256" in text
    assert hashlib.sha256(content).hexdigest()[:12] in text


def test_a_changed_byte_elsewhere_is_found_by_read_and_verify(bundle: Path) -> None:
    """open() does not read the golden images, but they are never used unchecked."""
    golden = bundle / "golden/02-grey.jpg"
    content = bytearray(golden.read_bytes())
    content[500] ^= 1
    golden.write_bytes(content)
    opened = Bundle.open(bundle)
    for use in (opened.verify, opened.golden, lambda: opened.read("golden/02-grey.jpg")):
        with pytest.raises(BundleError, match=r"golden/02-grey.jpg was altered"):
            use()


def test_a_changed_byte_in_a_zip_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Whether zip's own check sum or the hash finds it."""
    file = zipped(bundle, tmp_path / "b.zip")
    content = bytearray(file.read_bytes())
    at = content.index((bundle / "encoder.onnx").read_bytes()[:64]) + 3_000
    content[at] ^= 1
    file.write_bytes(content)
    assert "encoder.onnx" in refusal(file)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_is_refused(bundle: Path, tmp_path: Path, share: float) -> None:
    """Wherever the copy broke off."""
    file = zipped(bundle, tmp_path / "b.zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "is no bundle: neither a folder nor a whole zip file" in refusal(file)


def test_a_missing_file_is_named(bundle: Path) -> None:
    """And one that vanishes later, too."""
    opened = Bundle.open(bundle)
    (bundle / "golden/03-portrait.jpg").unlink()
    assert "has no golden/03-portrait.jpg, which its manifest lists" in refusal(bundle)
    with pytest.raises(BundleError, match=r"golden/03-portrait.jpg is missing"):
        opened.verify()


def test_an_unlisted_file_is_never_read_and_verify_names_it(bundle: Path) -> None:
    """Nothing rides along unnoticed."""
    (bundle / "extra.bin").write_bytes(b"x")
    opened = Bundle.open(bundle)
    with pytest.raises(
        NotFound, match=r"has no 'extra.bin'; it has LICENSE.txt, REPORT.md, encoder.onnx"
    ):
        opened.read("extra.bin")
    with pytest.raises(BundleError, match=r"holds 'extra.bin', which its manifest does not list"):
        opened.verify()


def test_another_preprocessing_does_not_fit_the_space_id(bundle: Path) -> None:
    """Altering the manifest alone is found out without any network."""
    edit(bundle, lambda m: m["preprocess"].update(interpolation="bilinear"))
    assert "but encoder and preprocessing make" in refusal(bundle)


def test_a_future_format_asks_for_a_newer_accrue(bundle: Path) -> None:
    """Before anything else of it is judged."""
    edit(bundle, lambda m: (m.clear(), m.update(format=2, shape="unheard of")))
    text = refusal(bundle, FutureVersion)
    assert "has format 2; this Accrue reads up to 1; update Accrue on this device" in text


def test_an_oversized_manifest_is_not_parsed(bundle: Path) -> None:
    """Its size is read, not its content."""
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(MANIFEST_LIMIT_BYTES + 1)
    assert "manifest.json has 1,048,577 bytes; expected at most 1,048,576" in refusal(bundle)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 200_000, "is no JSON"),
        (b'{"dim": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b'{"format": 1, "format": 1}', "a key stands twice"),
        (b'{"format": NaN}', "NaN is not a JSON number"),
        (b"[1]", "holds a list; expected an object"),
        (b"null", "holds null; expected an object"),
    ],
)
def test_a_manifest_that_is_no_object_is_refused(bundle: Path, content: bytes, reason: str) -> None:
    """Broken, bottomless, ambiguous or of another kind: one line."""
    (bundle / "manifest.json").write_bytes(content)
    assert reason in refusal(bundle)


HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.pop("format"), "has nothing as 'format'; expected a whole number"),
        (lambda m: m.update(format=True), "has true or false as 'format'"),
        (lambda m: m.update(format=0), "has 0 as 'format'"),
        (lambda m: m.pop("name"), "has nothing as 'name'; expected text"),
        (lambda m: m.update(name=3), "has 3 as 'name'; expected text"),
        (lambda m: m.update(space_id="AB" * 32), "as 'space_id'; expected 64 hexadecimal"),
        (lambda m: m.update(dim=0), "has 0 as 'dim'; expected a whole number from 1 to 65,536"),
        (lambda m: m.update(dim=64.0), "has 64.0 as 'dim'"),
        (lambda m: m.update(dim=10**9), "has 1000000000 as 'dim'"),
        (lambda m: m.update(input=[]), "has a list as 'input'; expected an object"),
        (lambda m: m["input"].update(colour="BGR"), "has 'BGR' as 'input.colour'; expected 'RGB'"),
        (lambda m: m["input"].update(size=31), "has 32 as 'preprocess.crop'"),
        (lambda m: m["preprocess"].update(resize=31), "has 31 as 'preprocess.resize'"),
        (
            lambda m: m["preprocess"].update(interpolation="area"),
            "has 'area' as 'preprocess.interpolation'; expected 'bicubic' or 'bilinear'",
        ),
        (lambda m: m["preprocess"].update(mean=[0, 0]), "'preprocess.mean'; expected three num"),
        (lambda m: m["preprocess"].update(mean=[0, 0, "0"]), "'preprocess.mean'"),
        (lambda m: m["preprocess"].update(std=[1, 1, 0]), "'preprocess.std'; expected three num"),
        (lambda m: m.update(projection={"seed": 1}), "as 'projection'; expected null"),
        (lambda m: m.pop("projection"), "has nothing as 'projection'"),
        (lambda m: m["licence"].pop("restricted"), "as 'licence.restricted'; expected true or"),
        (lambda m: m["licence"].update(restricted=0), "has 0 as 'licence.restricted'"),
        (lambda m: m["files"].pop("encoder.onnx"), "has nothing as 'files.encoder.onnx'"),
        (lambda m: m["files"]["encoder.onnx"].pop("bytes"), "as 'files.encoder.onnx.bytes'"),
        (lambda m: m["files"]["encoder.onnx"].update(bytes=-1), "as 'files.encoder.onnx.bytes'"),
        (lambda m: m.update(producer={"accrue": 1}), "as 'producer.accrue'; expected text"),
    ],
)
def test_each_field_of_the_wrong_form_is_named(bundle: Path, change: Edit, reason: str) -> None:
    """Found, where and expected, in one line."""
    edit(bundle, change)
    assert reason in refusal(bundle)


NAMES = ["../up.bin", "/etc/passwd", "a/../../b", "a\\b", "C:x", ".hidden", "a//b", "a/", "a\0b"]


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_a_file_name_never_leads_out_of_the_bundle(bundle: Path, name: str) -> None:
    """Neither in the manifest ..."""
    assert not is_entry_name(name)
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit(bundle, lambda m: m["files"].update({name: entry}))
    assert f"lists a file named {name!r}; expected a plain relative path" in refusal(bundle)


@pytest.mark.parametrize("name", ["../up.bin", "/etc/passwd", "a/../../b"])
def test_a_zip_entry_never_leads_out_of_the_bundle(bundle: Path, tmp_path: Path, name: str) -> None:
    """... nor in the zip, listed or not."""
    file = zipped(bundle, tmp_path / "b.zip", **{name: b"x"})
    assert f"holds an entry named {name!r}; expected a plain relative path" in refusal(file)


def test_a_compressed_zip_is_refused_with_what_to_type(bundle: Path, tmp_path: Path) -> None:
    """A compressed entry could be a bomb."""
    text = refusal(zipped(bundle, tmp_path / "b.zip", zipfile.ZIP_DEFLATED))
    assert "is compressed or encrypted; expected a stored entry" in text
    assert "zip -0 -r FILE ." in text


def test_a_zip_with_a_name_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Or two readers could see two bundles."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = zipped(bundle, tmp_path / "b.zip", **{"encoder.onnx": b"x"})
    assert "holds encoder.onnx twice" in refusal(file)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            npy(np.zeros((8, 63), np.float32)),
            r"\(8, 63\); expected float32 \(8, 64\)",
        ),
        (npy(np.zeros((7, 64), np.float32)), r"holds float32 \(7, 64\); expected"),
        (npy(np.zeros((8, 64))), r"holds float64 \(8, 64\); expected"),
        (npy(np.full((8, 64), np.nan, np.float32)), "holds a value that is not finite"),
        (npy(np.zeros((8, 64), np.float32))[:-4], r"holds float32 \(8, 64\); expected"),
        (npy(np.array([[{}]])), r"holds object \(1, 1\); expected"),
        (b"no array", "is no array file"),
        (b"", "is no array file"),
        (npy(np.zeros((8, 64), np.float32))[:40], "is no array file"),
    ],
)
def test_golden_embeddings_of_another_form_are_refused(
    bundle: Path, content: bytes, reason: str
) -> None:
    """Wrong dimension, dtype, count, NaN, pickles: even where the hash is right."""
    relist(bundle, "golden/embeddings.npy", content)
    with pytest.raises(BundleError, match=reason):
        Bundle.open(bundle).golden()


def test_without_golden_images_there_is_no_check(bundle: Path) -> None:
    """A bundle without them opens, but cannot be checked."""
    edit(bundle, lambda m: m["files"].pop("golden/embeddings.npy"))
    with pytest.raises(BundleError, match="has no golden images; its encoder cannot be checked"):
        Bundle.open(bundle).golden()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(bundle: Path) -> None:
    """Permission denied is one line, too."""
    (bundle / "manifest.json").chmod(0)
    assert "manifest.json cannot be read: Permission denied" in refusal(bundle)


def test_a_path_with_a_null_byte_is_refused_not_raised() -> None:
    """ValueError of the system call does not escape."""
    text = refusal(Path("a\0b"))  # Python 3.13 calls it a null character
    assert "cannot be read: " in text
    assert "embedded null" in text


def test_the_default_bundle_lies_inside_the_package() -> None:
    """So that it is installed with it."""
    import accrue

    assert default_bundle_path().is_relative_to(Path(accrue.__file__).parent)
