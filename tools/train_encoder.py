"""Train the bundled default encoder: MobileNetV2 distilled to fewer pixels and dimensions.

    pip install -r requirements/train.in && pip install --no-deps -e .
    python tools/train_encoder.py --data DATA --teacher mobilenetv2-imagenet.onnx --out DIR

The student begins as the teacher, with a linear layer to its first 256 principal components behind
it, and learns to say of a small picture what the teacher says of a larger one (cosine loss to the
teacher's embedding, Hinton et al. 2015, Romero et al. 2015). No label is used. It sees random
crops of the photographs listed in ``DIR/photos.txt``; each batch is half of either data set. At the
end its weights are averaged with those it began with, which keeps what these photographs do not
show.

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
from onnx import numpy_helper
from PIL import Image
from torch import nn

from accrue.bundle import Preprocess, default_bundle_path
from accrue_export import golden_images, write_bundle

LICENCE = Path(__file__).resolve().parent.parent / "LICENSE"
SEED = 20261121
DATA_SETS = ("photos-1000", "grocery-train")
N_CROPS = 140_000
CROP_AREA = (0.15, 1.0)  # share of the photograph that a crop covers
ASPECT = (3 / 4, 4 / 3)
TEACHER_PX = 192  # a third faster than 224 and within two points of it on ImageNet
STUDENT_PX = 144  # what the student is trained at
SERVED_PX = 192  # what it is used at: things look larger in crops (Touvron et al. 2019, "FixRes")
RESIZED_PX = 219
DIM = 256
WHITENED = 1.0  # while it is trained every principal component counts the same
SERVED_WHITENED = 0.6  # in use the leading ones count more; 0 would be the plain components
# of the weights; the rest is the teacher's (Wortsman et al. 2022, "WiSE-FT")
TRAINED_SHARE = 0.75
BATCH = 64
STEPS = 650
PEAK_RATE = 3e-4
WARMUP_STEPS = 60
WEIGHT_DECAY = 0.01


class Student(nn.Module):
    """The teacher's convolutions, read from its ONNX graph, and a projection."""

    def __init__(self, teacher: Path):
        super().__init__()
        graph = onnx.load(teacher).graph
        weights = {
            w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in graph.initializer
        }
        self.nodes: list[tuple[str, str, list[str], str]] = []
        self.convolutions = nn.ModuleDict()
        self.pads: dict[str, tuple[int, int, int, int]] = {}
        for k, node in enumerate(graph.node):
            name = f"n{k}"
            self.nodes.append((node.op_type, name, list(node.input), node.output[0]))
            if node.op_type != "Conv":
                continue
            given = {a.name: list(a.ints) or a.i for a in node.attribute}
            weight, groups = weights[node.input[1]], given.get("group", 1)
            conv = nn.Conv2d(
                weight.shape[1] * groups,
                weight.shape[0],
                weight.shape[2:],
                given["strides"],
                groups=groups,
            )
            top, left, bottom, right = given["pads"]
            if (top, left) == (bottom, right):
                conv.padding = (top, left)
            else:
                self.pads[name] = (left, right, top, bottom)
            conv.weight.data, conv.bias.data = weight, weights[node.input[2]]
            self.convolutions[name] = conv
        self.image, self.embedding = graph.input[0].name, graph.output[0].name
        self.projection = nn.Linear(weight.shape[0], DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.image: x}
        for kind, name, inputs, output in self.nodes:
            y = values[inputs[0]]
            if kind == "Conv":
                padded = nn.functional.pad(y, self.pads[name]) if name in self.pads else y
                y = self.convolutions[name](padded)
            elif kind == "Clip":
                y = nn.functional.relu6(y)
            elif kind == "Add":
                y = y + values[inputs[1]]
            elif kind == "GlobalAveragePool":
                y = y.mean((2, 3), keepdim=True)
            elif kind == "Flatten":
                y = y.flatten(1)
            else:
                raise SystemExit(f"the teacher has an op of kind {kind}; expected a MobileNetV2")
            values[output] = y
        return self.projection(values[self.embedding])


def photographs(data: Path) -> list[Path]:
    found = [sorted((data / folder).rglob("*.jpg")) for folder in DATA_SETS]
    if not all(found):
        raise SystemExit(
            f"photographs are missing under {data}: {' and '.join(DATA_SETS)} are needed"
        )
    return [path for folder in found for path in folder]


def crops_of(photos: list[Path]) -> list[np.ndarray]:
    """The numbers of the crops that each photograph gives."""
    return np.array_split(np.random.default_rng(SEED).permutation(N_CROPS), len(photos))


def make_crops(photos: list[Path], out: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 crops for the student (n, 144, 144, 3) and for the teacher (n, 192, 192, 3)."""
    small = np.lib.format.open_memmap(
        out / "crops.npy", "w+", np.uint8, (N_CROPS, STUDENT_PX, STUDENT_PX, 3)
    )
    big = np.lib.format.open_memmap(
        out / "teacher_crops.npy", "w+", np.uint8, (N_CROPS, TEACHER_PX, TEACHER_PX, 3)
    )
    per_photo = crops_of(photos)

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
            small[i] = Image.fromarray(big[i]).resize((STUDENT_PX,) * 2, Image.Resampling.BICUBIC)

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


def principal(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (1280,), variances (DIM,) and directions (1280, DIM) of the leading components."""
    x = embeddings.astype(np.float32)
    mean = x.mean(0)
    x -= mean
    values, vectors = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64))
    top = np.argsort(values)[::-1][:DIM]
    print(f"teacher: {values[top].sum() / values.sum():.1%} of the variance in {DIM} components")
    return mean, values[top], vectors[:, top]


def begin(student: Student, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives the student its projection: weight (DIM, 1280) and bias (DIM,), also returned."""
    mean, variances, directions = principal(embeddings)
    weight = (directions / variances ** (WHITENED / 2)).T.astype(np.float32)
    bias = -weight @ mean
    student.projection.weight.data = torch.tensor(weight)  # a copy: it will be trained
    student.projection.bias.data = torch.tensor(bias)
    return weight, bias


def train(
    student: Student, sets: list[np.ndarray], crops: np.ndarray, embeddings: np.ndarray, out: Path
) -> None:
    """Trains in place. `sets` holds the crop numbers of each data set."""
    weight, bias = begin(student, embeddings)
    student.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(student.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng([SEED, 1])
    history, running, began = [], 0.0, time.time()
    for step in range(STEPS):
        pick = np.sort(np.concatenate([rng.choice(s, BATCH // len(sets), False) for s in sets]))
        views = crops[pick]
        mirrored = rng.random(len(pick)) < 0.5
        views[mirrored] = views[mirrored, :, ::-1]
        target = torch.from_numpy(embeddings[pick].astype(np.float32) @ weight.T + bias)
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        image = torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = student(image)
        loss = 1 - torch.cosine_similarity(embedding.float(), target).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        running += loss.item()
        if (step + 1) % 50 == 0:
            row = {"step": step + 1, "loss": running / 50, "seconds": time.time() - began}
            history.append(row)
            running = 0.0
            print(f"student: {json.dumps(row)}", flush=True)
        if (step + 1) % 250 == 0:
            torch.save(student.state_dict(), out / "checkpoint.pt")
    (out / "history.json").write_text(json.dumps(history))


def finish(student: Student, teacher: Path, embeddings: np.ndarray) -> None:
    """Averages the trained weights with those it began with, and weighs the components."""
    start = Student(teacher)
    begin(start, embeddings)
    with torch.no_grad():
        for ours, theirs in zip(student.parameters(), start.parameters(), strict=True):
            ours.copy_(TRAINED_SHARE * ours + (1 - TRAINED_SHARE) * theirs)
        _, variances, _ = principal(embeddings)
        scale = torch.tensor(variances ** ((WHITENED - SERVED_WHITENED) / 2), dtype=torch.float32)
        scale /= scale.max()
        student.projection.weight *= scale[:, None]
        student.projection.bias *= scale


def export(student: Student, out: Path, bundle: Path) -> None:
    """Writes the trained student as a bundle; weights are stored as float16."""
    student.eval()
    file = out / "student.onnx"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(1, 3, SERVED_PX, SERVED_PX)
    torch.onnx.export(
        student,
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
        name="accrue-default-192",
        source="distilled from MobileNetV2 1.0 224 (ImageNet) by tools/train_encoder.py",
        licence_name="Apache-2.0",
        licence_text=LICENCE.read_text(),
        restricted=False,
        preprocess=Preprocess(
            resize=RESIZED_PX,
            crop=SERVED_PX,
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

    student = Student(args.teacher)
    if (out / "student.pt").exists():
        student.load_state_dict(torch.load(out / "student.pt", weights_only=True))
    else:
        if not (out / "teacher.npy").exists():
            _, big = make_crops(photos, out)
            np.save(out / "teacher.npy", teacher_embeddings(args.teacher, big))
            (out / "teacher_crops.npy").unlink()
        crops = np.load(out / "crops.npy", mmap_mode="r")
        numbers = crops_of(photos)
        sets = [
            np.concatenate([n for n, p in zip(numbers, photos, strict=True) if folder in p.parts])
            for folder in DATA_SETS
        ]
        train(student, sets, crops, np.load(out / "teacher.npy"), out)
        torch.save(student.state_dict(), out / "student.pt")
    finish(student, args.teacher, np.load(out / "teacher.npy"))
    export(student, out, args.bundle)


if __name__ == "__main__":
    main()
