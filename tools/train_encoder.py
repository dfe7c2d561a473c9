"""Train the bundled default encoder: distil an ImageNet MobileNetV2 into a small residual network.

    pip install -r requirements/train.in && pip install --no-deps -e .
    python tools/train_encoder.py --data DATA --teacher mobilenetv2-imagenet.onnx --out DIR

No label is used: the student learns to reproduce the teacher's embedding (cosine loss to the
teacher's whitened first 256 principal components, FitNets-style feature distillation, Romero et
al. 2015) on random crops of the photographs listed in ``DIR/photos.txt``.

Stages, each of which leaves its output in DIR and is skipped when that is already there:
crops (the views, uint8), teacher (their embeddings), student (the trained weights), bundle.
Seed, step count and data list are fixed, so the command can be repeated; on another CPU the
floating-point sums, and so the last digits of the weights, may differ.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from PIL import Image
from torch import nn

from accrue.bundle import Preprocess, default_bundle_path
from accrue_export import golden_images, write_bundle

LICENCE = Path(__file__).resolve().parent.parent / "LICENSE"
SEED = 20261121
N_CROPS = 140_000
CROP_AREA = (0.15, 1.0)  # share of the photograph that a crop covers
ASPECT = (3 / 4, 4 / 3)
TEACHER_PX = 192  # a third faster than 224 and within two points of it on ImageNet
STORED_PX = 144  # the student sees a random STUDENT_PX window of this
STUDENT_PX = 128
DIM = 256
WIDTHS = (32, 48, 96, 192, 272)
BLOCKS = (2, 2, 2, 1)
BATCH = 128
STEPS = 6_000
PEAK_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.02


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016; average-pool shortcut as ResNet-D)."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
            self.shortcut = nn.Sequential(
                pool, nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def student() -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
    ]
    inner = WIDTHS[0]
    for outer, count in zip(WIDTHS[1:], BLOCKS, strict=True):
        for i in range(count):
            layers.append(Block(inner, outer, 2 if i == 0 else 1))
            inner = outer
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, DIM)]
    return nn.Sequential(*layers)


def photographs(data: Path) -> list[Path]:
    found = sorted((data / "photos-1000").rglob("*.jpg")) + sorted(
        (data / "grocery-train").rglob("*.jpg")
    )
    if not found:
        raise SystemExit(f"no photographs under {data}: photos-1000/ and grocery-train/ are needed")
    return found


def make_crops(photos: list[Path], out: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 crops for the student (n, 144, 144, 3) and for the teacher (n, 192, 192, 3)."""
    small = np.lib.format.open_memmap(
        out / "crops.npy", "w+", np.uint8, (N_CROPS, STORED_PX, STORED_PX, 3)
    )
    big = np.lib.format.open_memmap(
        out / "teacher_crops.npy", "w+", np.uint8, (N_CROPS, TEACHER_PX, TEACHER_PX, 3)
    )
    per_photo = np.array_split(np.random.default_rng(SEED).permutation(N_CROPS), len(photos))

    def work(p: int) -> None:
        rng = np.random.default_rng([SEED, p])
        with Image.open(photos[p]) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        for i in per_photo[p]:
            while True:
                area = rng.uniform(*CROP_AREA) * width * height
                aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
                w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
                if w <= width and h <= height:
                    break
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            crop = image.resize((TEACHER_PX,) * 2, Image.Resampling.BICUBIC, (x, y, x + w, y + h))
            pixels = np.asarray(crop, np.float32)
            pixels = pixels * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)  # exposure
            grey = pixels.mean(-1, keepdims=True)
            pixels = grey + (pixels - grey) * rng.uniform(0.7, 1.3)  # saturation
            pixels *= rng.uniform(0.92, 1.08, 3)  # colour of the light
            big[i] = np.clip(pixels, 0, 255).astype(np.uint8)
            small[i] = Image.fromarray(big[i]).resize((STORED_PX,) * 2, Image.Resampling.BICUBIC)

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(work, range(len(photos))), 1):
            if done % 200 == 0:
                print(f"crops: {done}/{len(photos)} photographs", flush=True)
    return small, big


def teacher_embeddings(teacher: Path, crops: np.ndarray) -> np.ndarray:
    model = onnx.load(teacher)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = TEACHER_PX
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = []
    for start in range(0, len(crops), 64):
        batch = crops[start : start + 64].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
        found.append(session.run(None, {name: batch})[0].astype(np.float16))
        if start % 6400 == 0:
            print(f"teacher: {start}/{len(crops)}", flush=True)
    return np.concatenate(found)


def whitened(embeddings: np.ndarray) -> np.ndarray:
    """Unit-norm float32 (n, DIM): centred, rotated and scaled to unit variance per component."""
    x = embeddings.astype(np.float32)
    x -= x.mean(0)
    values, vectors = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64))
    top = np.argsort(values)[::-1][:DIM]
    print(f"teacher: {values[top].sum() / values.sum():.1%} of the variance in {DIM} components")
    z = x @ (vectors[:, top] / np.sqrt(values[top])).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def train(crops: np.ndarray, targets: np.ndarray, out: Path) -> nn.Sequential:
    torch.manual_seed(SEED)
    # not SEED itself: make_crops dealt the crops to photographs by that very permutation, and each
    # batch would show three photographs
    rng = np.random.default_rng([SEED, 1])
    net = student().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(net.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    history, running, began = [], 0.0, time.time()
    order = np.empty(0, np.int64)

    def batches():
        nonlocal order
        for _ in range(STEPS):
            if len(order) < BATCH:
                order = rng.permutation(len(crops))
            pick, order = np.sort(order[:BATCH]), order[BATCH:]
            dy, dx = rng.integers(0, STORED_PX - STUDENT_PX + 1, 2)
            views = crops[pick, dy : dy + STUDENT_PX, dx : dx + STUDENT_PX]
            mirrored = rng.random(BATCH) < 0.5
            views[mirrored] = views[mirrored, :, ::-1]
            yield torch.from_numpy(views), torch.from_numpy(targets[pick])

    for step, (views, target) in enumerate(batches()):
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        rate = PEAK_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimiser.param_groups:
            group["lr"] = rate
        image = views.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = net(image)
        loss = 1 - torch.cosine_similarity(embedding.float(), target).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "loss": running / 100, "seconds": time.time() - began}
            history.append(row)
            running = 0.0
            print(f"student: {json.dumps(row)}", flush=True)
        if (step + 1) % 1000 == 0:
            torch.save(net.state_dict(), out / "checkpoint.pt")
    (out / "history.json").write_text(json.dumps(history))
    return net


def export(out: Path, bundle: Path) -> None:
    """Writes the trained student as a bundle; weights are stored as float16."""
    net = student()
    net.load_state_dict(torch.load(out / "student.pt", weights_only=True))
    net.eval()
    file = out / "student.onnx"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(1, 3, STUDENT_PX, STUDENT_PX)
    torch.onnx.export(  # folds each batch norm into its convolution
        net,
        (example,),
        file,
        input_names=["image"],
        output_names=["embedding"],
        dynamic_axes={"image": {0: "batch"}, "embedding": {0: "batch"}},
        opset_version=18,
        dynamo=False,
    )
    write_bundle(
        bundle,
        model=onnx.load(file),
        name="accrue-default-128",
        source="distilled from MobileNetV2 1.0 224 (ImageNet) by tools/train_encoder.py",
        licence_name="Apache-2.0",
        licence_text=LICENCE.read_text(),
        restricted=False,
        preprocess=Preprocess(
            resize=STORED_PX,
            crop=STUDENT_PX,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        golden=golden_images(),
        fp16_weights=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="has photos-1000, grocery-train")
    parser.add_argument("--teacher", type=Path, required=True, help="MobileNetV2 ONNX, 1280-d")
    parser.add_argument("--out", type=Path, required=True, help="work folder (about 25 GB)")
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="to be written")
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    photos = photographs(args.data)
    (out / "photos.txt").write_text("".join(f"{p.relative_to(args.data)}\n" for p in photos))

    if not (out / "student.pt").exists():
        if not (out / "teacher.npy").exists():
            _, big = make_crops(photos, out)
            np.save(out / "teacher.npy", teacher_embeddings(args.teacher, big))
            (out / "teacher_crops.npy").unlink()
        crops = np.load(out / "crops.npy", mmap_mode="r")
        targets = whitened(np.load(out / "teacher.npy"))
        torch.save(train(crops, targets, out).state_dict(), out / "student.pt")

    export(out, args.bundle)


if __name__ == "__main__":
    main()
