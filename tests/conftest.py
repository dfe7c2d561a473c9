"""Fixtures that all parts share: drawn photographs, a tiny encoder, the shared data."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# As accrue sets them before it imports numpy and OpenCV; some tests import these themselves.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "17")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import numpy as np
import pytest
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from fleet_world import World

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
TINY_DIM = 64
TINY_PX = 32


def draw_photo(
    seed: int, size: tuple[int, int] = (160, 120), kind: int | None = None
) -> Image.Image:
    """A varied RGB image. Images of one ``kind`` look alike: same colours and shape, other place,
    light and background, so that a class can be learned from them."""
    rng = np.random.default_rng([seed, *size])
    look = np.random.default_rng([9, seed if kind is None else kind])
    width, height = size
    top, bottom = rng.uniform(90, 200, (2, 3))
    t = np.linspace(0, 1, height)[:, None, None]
    pixels = (1 - t) * top + t * bottom + rng.normal(0, 6, (height, width, 3))  # (h, w, 3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    corners = int(look.integers(3, 9))
    pointed = look.uniform(0.35, 1)
    fill, edge = (tuple(int(v) for v in look.integers(0, 256, 3)) for _ in range(2))
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    radius, turn = min(size) * rng.uniform(0.28, 0.4), rng.uniform(0, math.tau)
    points = []
    for i in range(2 * corners):
        reach = radius * (1 if i % 2 else pointed)
        angle = turn + math.pi * i / corners
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    draw.polygon(points, fill=fill)
    r = radius * 0.3
    draw.ellipse((x - r, y - r, x + r, y + r), fill=edge)
    return image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process is left with it while others are done."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def log_set_up_by_a_command_goes_with_it() -> Iterator[None]:
    """`accrue run` and its like, called in this process, have the root logger write to a stderr
    that pytest closes after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def nightly() -> bool:
    """Whether this is the long run of `./tools/nightly`."""
    return os.environ.get("ACCRUE_NIGHTLY") == "1"


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: Path) -> Iterator[World]:
    """A fleet with an owner and a real broker, from an empty folder."""
    from fleet_world import World  # it needs the packages of a fleet

    made = World(tmp_path, tiny_bundle)
    made.start()
    yield made
    made.stop_broker()


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    """``photo(seed, size=(160, 120), kind=None)``: uint8 (h, w, 3) RGB."""
    return lambda seed=0, size=(160, 120), kind=None: np.asarray(draw_photo(seed, size, kind))


@pytest.fixture
def photo_file(tmp_path: Path) -> Callable[..., Path]:
    """``photo_file(name, seed, size=..., kind=..., **save)``: a file below tmp_path; the suffix
    chooses the format."""

    def write(
        name: str = "photo.jpg",
        seed: int = 0,
        size: tuple[int, int] = (160, 120),
        kind: int | None = None,
        **save: object,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_photo(seed, size, kind).save(path, **save)
        return path

    return write


@pytest.fixture
def photo_classes(photo_file: Callable[..., Path]) -> Callable[..., dict[str, list[Path]]]:
    """``photo_classes(folder, classes=3, each=4, first=0)``: CLASS/PHOTO.jpg below tmp_path.

    The classes are always the same ones, ``first`` moves on to other photographs of them.
    """

    def write(
        folder: str = "photos", classes: int = 3, each: int = 4, first: int = 0
    ) -> dict[str, list[Path]]:
        return {
            f"kind-{k}": [
                photo_file(f"{folder}/kind-{k}/{i:02}.jpg", seed=1000 * k + i, kind=k, quality=92)
                for i in range(first, first + each)
            ]
            for k in range(classes)
        }

    return write


def tiny_model():
    """A seeded convolution, pooling and a linear layer: float32 (batch, 3, 32, 32) -> (batch, 64).

    Colour, edges and where they are all reach the embedding, and the bias takes out what all
    images share, so that different photographs have clearly different embeddings.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(0, 0.25, (16, 3, 5, 5)),
        "b1": np.zeros(16),
        "w2": rng.normal(0, 0.12, (32, 16, 3, 3)),
        "b2": np.zeros(32),
        "w3": rng.normal(0, 0.1, (32 * 4 * 2, TINY_DIM)),
    }

    def build(bias: np.ndarray):
        values = {**weights, "b3": bias}
        nodes = [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], strides=[2, 2], pads=[2] * 4),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Relu", ["c2"], ["r2"]),  # (n, 32, 8, 8)
            helper.make_node("AveragePool", ["r2"], ["a"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("MaxPool", ["r2"], ["m"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Concat", ["a", "m"], ["am"], axis=1),  # (n, 64, 2, 2)
            helper.make_node("Flatten", ["am"], ["f"], axis=1),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["embedding"]),  # (n, 64)
        ]
        f = TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", f, ["batch", 3, TINY_PX, TINY_PX])],
            [helper.make_tensor_value_info("embedding", f, ["batch", TINY_DIM])],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model

    images = [np.asarray(draw_photo(s, (TINY_PX, TINY_PX))) for s in range(100, 140)]
    planes = (np.stack(images).astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    plain = build(np.zeros(TINY_DIM))
    session = onnxruntime.InferenceSession(
        plain.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    mean = session.run(None, {"image": np.ascontiguousarray(planes)})[0].mean(0)
    return build(-np.round(mean, 3))  # rounded: the same bytes on every machine


@pytest.fixture(scope="session")
def tiny_onnx():
    """`tiny_model` as an onnx.ModelProto; do not change it, copy it."""
    return tiny_model()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_onnx) -> Path:
    """A bundle folder with `tiny_model`, 64 dimensions, 32 px; do not change it, copy it."""
    from accrue.bundle import Preprocess
    from accrue_export import golden_images, write_bundle

    return write_bundle(
        tmp_path_factory.mktemp("tiny") / "tiny-bundle",
        model=tiny_onnx,
        name="tiny",
        source="tests/conftest.py",
        licence_name="Apache-2.0",
        licence_text="Made by the tests.\n",
        restricted=False,
        preprocess=Preprocess(36, TINY_PX, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        golden=golden_images(),
    ).path


@pytest.fixture(scope="session")
def mobilenet_onnx() -> Path:
    """The teacher of the shared data."""
    return shared("encoders/mobilenetv2-imagenet.onnx")


@pytest.fixture(scope="session")
def real_photos() -> list[Path]:
    """Thirty photographs of the shared data."""
    paths = sorted(shared("data/grocery-val").rglob("*.jpg"))
    return paths[:: len(paths) // 30][:30]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/{name} is missing: put the project's shared folder beside this one")
    return path
