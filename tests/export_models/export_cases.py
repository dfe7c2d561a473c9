"""What the tests of real architectures share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from accrue.bundle import Bundle
from accrue.vision.decode import decode
from accrue.vision.preprocess import Preprocessor

SEED = 0


def prepared_images(bundle: Bundle) -> np.ndarray:
    """The golden images as the network's input, uint8 (n, size, size, 3)."""
    exact = Preprocessor(bundle.manifest.preprocess).exact
    return np.stack([exact(decode(jpeg, name=name)) for name, jpeg, _ in bundle.golden()])


def torch_features(path: Path) -> np.ndarray:
    """What the torch module gave for `prepared_images` when `built_bundle` exported it."""
    return np.load(path.parent / f"{path.name}.torch.npy")
