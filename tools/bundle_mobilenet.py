"""Write the MobileNetV2 of the shared data as an encoder bundle.

    tools/bundle_mobilenet.py --onnx ../shared/encoders/mobilenetv2-imagenet.onnx -o BUNDLE

Without ``--golden-from`` the golden images are those that the project draws. With it, eight JPEGs
of that folder are copied into the bundle: then their licence decides who may have it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from accrue.bundle import Preprocess
from accrue.errors import AccrueError
from accrue.vision import image_paths
from accrue_export import golden_images, write_bundle

GOLDEN_COUNT = 8
PREPROCESS = Preprocess(
    resize=256, crop=224, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
LICENCE = """\
MobileNetV2 1.0 224, trained on ImageNet. Copyright Google LLC.
From the test data of the Coral project; changed: dequantised to float32, last layer removed.

Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except
in compliance with the License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License
is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express
or implied. See the License for the specific language governing permissions and limitations under
the License.
"""


def photographs(folder: Path) -> list[tuple[str, bytes]]:
    """Eight JPEGs, evenly spread over the sorted files of a folder."""
    paths = [p for p in image_paths(folder) if p.suffix.lower() in (".jpg", ".jpeg")]
    step = max(1, len(paths) // GOLDEN_COUNT)
    chosen = paths[::step][:GOLDEN_COUNT]
    return [(f"{i:02}.jpg", path.read_bytes()) for i, path in enumerate(chosen)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="mobilenetv2-imagenet.onnx")
    parser.add_argument("--golden-from", type=Path, help="folder of JPEGs; default: drawn images")
    parser.add_argument("-o", "--out", type=Path, required=True, help="bundle folder to write")
    parser.add_argument("--fp16-weights", action="store_true", help="half the file")
    args = parser.parse_args()
    try:
        model = onnx.load(args.onnx)
    except (OSError, DecodeError) as error:
        print(f"cannot read {args.onnx}: {error}", file=sys.stderr)
        return 1
    try:
        bundle = write_bundle(
            args.out,
            model=model,
            name="mobilenetv2-imagenet",
            source="MobileNetV2 1.0 224, ImageNet, test data of Google's Coral project",
            licence_name="Apache-2.0",
            licence_text=LICENCE,
            restricted=False,
            preprocess=PREPROCESS,
            golden=photographs(args.golden_from) if args.golden_from else golden_images(),
            fp16_weights=args.fp16_weights,
        )
    except AccrueError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    manifest = bundle.manifest
    print(f"{bundle.path}: {manifest.dim} dimensions, space {manifest.space_id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
