"""From cameras and image files to embeddings."""

from accrue.vision.decode import decode
from accrue.vision.encode import Encoder, OnnxEncoder, Parity, golden_check
from accrue.vision.preprocess import Preprocessor
from accrue.vision.sources import (
    FakeSource,
    Frame,
    Source,
    image_paths,
    labelled_images,
    open_source,
)

__all__ = [
    "Encoder",
    "FakeSource",
    "Frame",
    "OnnxEncoder",
    "Parity",
    "Preprocessor",
    "Source",
    "decode",
    "golden_check",
    "image_paths",
    "labelled_images",
    "open_source",
]
