"""Export's accuracy by the names of the classes alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from accrue.bundle import Bundle
from accrue.vision.decode import decode
from accrue.vision.encode import OnnxEncoder
from accrue.vision.text import TextEncoder
from accrue_export.cli import main


def test_verify_asks_by_the_names_of_the_classes(
    text_bundle: Path,
    photo_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The nearest name's vector decides; the last part of a class's path is its name."""
    names = {"parts/hex-bolt": "hex bolt", "parts/Spur_Gear": "spur gear", "washer": "washer"}
    for kind, name in enumerate(names):
        for i in range(3):
            photo_file(f"train/{name}/{i}.jpg", seed=100 * kind + i, kind=kind)
            photo_file(f"test/{name}/{i}.jpg", seed=100 * kind + 50 + i, kind=kind)
    words = ["verify", text_bundle, "--train", tmp_path / "train", "--test", tmp_path / "test"]
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in [*words, "--json"]])
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)["zero_shot"]
    bundle = Bundle.open(text_bundle)
    vectors = TextEncoder(bundle).embed(list(names.values()))
    encoder = OnnxEncoder(bundle)
    right = []
    for row, name in enumerate(names):
        images = [decode(tmp_path / f"test/{name}/{i}.jpg") for i in range(3)]
        right += list((encoder.encode(images) @ vectors.T).argmax(axis=1) == row)
    assert found == pytest.approx(np.mean(right))
