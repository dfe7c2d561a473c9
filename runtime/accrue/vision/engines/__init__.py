"""Engines: TensorRT where there is one, ONNX Runtime everywhere, and why which of them serves."""

from accrue.vision.engines.folder import Engine, EngineFolder
from accrue.vision.engines.key import FLAVOURS, RTX, TENSORRT, EngineKey, Profile, difference
from accrue.vision.engines.selection import (
    CANDIDATES,
    Dropped,
    Facts,
    Selection,
    cannot_build,
    select,
)
from accrue.vision.engines.serving import Serving, choose, mismatch, open_engine, serve
from accrue.vision.engines.trt import Plan, build, load_module

__all__ = [
    "CANDIDATES",
    "FLAVOURS",
    "RTX",
    "TENSORRT",
    "Dropped",
    "Engine",
    "EngineFolder",
    "EngineKey",
    "Facts",
    "Plan",
    "Profile",
    "Selection",
    "Serving",
    "build",
    "cannot_build",
    "choose",
    "difference",
    "load_module",
    "mismatch",
    "open_engine",
    "select",
    "serve",
]
