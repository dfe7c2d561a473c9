"""The text part of a bundle: the text tower of a CLIP-shaped model as ONNX, its tokenizer as one
file, and vectors for a vocabulary, so that a device can learn a class from its name."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accrue.errors import BundleError, NotFound, UsageError
from accrue.vision.text import (
    CLEANING,
    NAMES,
    TOKENIZER,
    TOWER,
    VECTORS,
    TextPart,
    TextTokenizer,
    TextTower,
    name_key,
)
from accrue_export.graph import wrap_text
from accrue_export.models import HUB, OPSET

LICENCE = "text/LICENSE.txt"
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
)
MIN_TEXT_COSINE = 0.99999  # of the ONNX tower to torch's
PARITY_TEXTS = 32
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_NO_TEXT = "leave the text part out (--no-text)"
# What CLIP's tokenizer splits a text into before it merges bytes; open_clip's SimpleTokenizer.
_CLIP_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"""
_CLIP_START, _CLIP_END = "<start_of_text>", "<end_of_text>"
_CLIP_MERGES = 49_152 - 256 - 2  # lines of the file after its first; the others are not used
_CLIP_LICENCE = """tokenizer.json holds the byte pair vocabulary of CLIP, https://github.com/openai/CLIP, under the MIT licence:

Copyright (c) 2021 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""  # noqa: E501
_LICENCE = """names.json is Accrue's vocabulary, under the Apache License 2.0.
encoder.onnx and vectors.npy come from the weights of the model; LICENSE.txt of the bundle holds for them.
"""  # noqa: E501

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as the bundle carries it.

    Attributes:
        json: tokenizer.json, in the format of the package ``tokenizers``.
        clean: what is done to a text before it, see `accrue.vision.text.clean`.
        context: tokens of one text. pad: id behind the last one. end: id of the last one.
        licence: of `json`, a text.
    """

    json: bytes
    clean: str
    context: int
    pad: int
    end: int
    licence: str


def vocabulary() -> list[tuple[str, ...]]:
    """The names that Accrue ships: of each thing its name, then its synonyms."""
    text = (resources("accrue_export") / "data" / "vocabulary.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    return [
        tuple(name.strip() for name in line.split(";"))
        for line in lines
        if line and not line.startswith("#")
    ]


def tokenizer_of(model_name: str, folder: Path | None = None) -> Tokenizer:
    """The tokenizer of one of open_clip's models.

    Args:
        model_name: as open_clip knows it, or ``hf-hub:OWNER/NAME``.
        folder: with tokenizer.json and tokenizer_config.json, for a model whose tokenizer lies on
            a hub that cannot be reached.

    Raises:
        NotFound: no such model, or the hub or folder does not have the files.
        BundleError: the model's way of making tokens cannot be had from these files.
    """
    text = _text_config(model_name)
    context = int(text.get("context_length", 77))
    options = dict(text.get("tokenizer_kwargs", {}))
    hub = text.get("hf_tokenizer_name")
    if hub is None:
        if options:
            raise _cannot(model_name, f"its tokenizer is made with {options}")
        return clip_tokenizer(context)
    how = options.pop("clean", "whitespace")
    if options or how not in CLEANING:
        raise _cannot(model_name, f"its tokenizer is made with {text['tokenizer_kwargs']}")
    paths = _local(folder) if folder is not None else _fetched(hub, _TOKENIZER_FILES)
    content = paths[0].read_bytes()
    settings = json.loads(paths[1].read_text(encoding="utf-8"))
    return _hub_tokenizer(model_name, content, settings, clean=how, context=context, source=hub)


def clip_tokenizer(context: int = 77) -> Tokenizer:
    """CLIP's tokenizer, from the vocabulary that open_clip brings; the same ids as open_clip's."""
    content, end = _clip_json()
    return Tokenizer(content, "lower", context, 0, end, _CLIP_LICENCE)


@cache
def _clip_json() -> tuple[bytes, int]:
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from tokenizers import Regex, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Built

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    first, second = zip(*(line.split() for line in lines[1 : _CLIP_MERGES + 1]), strict=True)
    merges = list(zip(first, second, strict=True))
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    ids = {word: i for i, word in enumerate([*words, _CLIP_START, _CLIP_END])}
    built = Built(models.BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>"))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.add_special_tokens([_CLIP_START, _CLIP_END])
    built.post_processor = processors.TemplateProcessing(
        single=f"{_CLIP_START} $A {_CLIP_END}",
        special_tokens=[(name, ids[name]) for name in (_CLIP_START, _CLIP_END)],
    )
    return built.to_str().encode(), ids[_CLIP_END]


def _hub_tokenizer(
    model_name: str,
    content: bytes,
    settings: dict[str, Any],
    *,
    clean: str,
    context: int,
    source: str,
) -> Tokenizer:
    from tokenizers import Tokenizer as Built

    built = Built.from_str(content.decode())
    pad = settings.get("pad_token")
    name = pad["content"] if isinstance(pad, dict) else pad
    number = built.token_to_id(name) if isinstance(name, str) else None
    if number is None:
        raise _cannot(model_name, f"tokenizer_config.json names {pad!r} as pad_token")
    built.no_padding()
    built.no_truncation()
    ends = {built.encode(word).ids[-1] for word in ("bolt", "a photo of a nut.")}
    if len(ends) != 1:
        raise _cannot(model_name, "its tokenizer does not close a text with a token of its own")
    licence = f"tokenizer.json comes from {source}; the licence of the model holds for it.\n"
    return Tokenizer(content, clean, context, number, ends.pop(), licence)


def _local(folder: Path) -> list[Path]:
    paths = [folder / name for name in _TOKENIZER_FILES]
    for path in paths:
        if not path.is_file():
            raise NotFound(f"{path} is missing", hint=_bring(str(folder)), path=str(path))
    return paths


def _text_config(model_name: str) -> dict[str, Any]:
    import open_clip

    if model_name.startswith(HUB):
        (path,) = _fetched(model_name[len(HUB) :], ("open_clip_config.json",))
        config = json.loads(path.read_text(encoding="utf-8")).get("model_cfg", {})
    else:
        config = open_clip.get_model_config(model_name.replace("/", "-"))
    if config is None:
        raise NotFound(f"open_clip has no model {model_name!r}", found=model_name)
    found: dict[str, Any] = config.get("text_cfg", {})
    return found


def _fetched(hub: str, names: Sequence[str]) -> list[Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    found = []
    for name in names:
        try:
            found.append(Path(hf_hub_download(hub, name)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise NotFound(
                f"{name} of the hub repository {hub} could not be fetched: "
                f"{' '.join(str(error).split())[:200]}",
                hint=f"{_bring('a folder')}, or {_NO_TEXT}",
                found=hub,
            ) from error
    return found


def _bring(where: str) -> str:
    return f"put {' and '.join(_TOKENIZER_FILES)} of the model's tokenizer into {where}"


def text_contents(
    model: Any,
    tokenizer: Tokenizer,
    *,
    dim: int,
    names: Sequence[Sequence[str]] | None = None,
    templates: Sequence[str] = TEMPLATES,
    progress: Progress = lambda *_: None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and manifest entry of the text part of a model; for `write_bundle(extra=, text=)`.

    Args:
        model: of open_clip, with a text tower, in evaluation mode. It is not changed.
        tokenizer: from `tokenizer_of`.
        dim: of the image embeddings that the vectors are to be compared with.
        names: vocabulary; each entry a name and its synonyms. Accrue's own if None.
        templates: sentences with one {}.
        progress: called with (what, done, total).

    Raises:
        BundleError: no text tower, another dimension, or the ONNX tower differs from torch's.
        UsageError: a name is too long, or stands twice in the vocabulary.
    """
    entries = [tuple(one) for one in (vocabulary() if names is None else names)]
    _check_names(entries)
    progress("exporting the text tower", 0, 1)
    exported, found = _export(model, tokenizer.context)
    progress("exporting the text tower", 1, 1)
    if found != dim:
        raise BundleError(
            f"the text tower gives vectors of {found} dimensions, the image tower of {dim}; "
            "they are not of one space",
            hint=_NO_TEXT,
            found=found,
            expected=dim,
        )
    bias = getattr(model, "logit_bias", None)
    part = TextPart(
        dim=dim,
        context=tokenizer.context,
        pad=tokenizer.pad,
        end=tokenizer.end,
        clean=tokenizer.clean,
        templates=tuple(templates),
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
    )
    contents = {TOKENIZER: tokenizer.json, TOWER: exported}
    tower = TextTower(part, contents.__getitem__, "being written")
    tokens = TextTokenizer(tokenizer.json, part)
    texts = [part.templates[0].replace("{}", one[0]) for one in entries[:PARITY_TEXTS]]
    cosine = _parity(model, tower, tokens(texts))
    rows = []
    for done, one in enumerate(entries, 1):
        rows.append(tower.average(one))
        progress("embedding the vocabulary", done, len(entries))
    vectors = np.stack(rows)
    contents[NAMES] = json.dumps(entries, ensure_ascii=False, indent=0).encode()
    contents[VECTORS] = _npy(vectors)
    contents[LICENCE] = (_LICENCE + "\n" + tokenizer.licence).encode()
    return contents, {**part.document(), "names": len(entries), "min_cosine": cosine}


def _export(model: Any, context: int) -> tuple[bytes, int]:
    """The text tower as ONNX, float16 weights computed with in float32, and its dimension."""
    import torch

    if not hasattr(model, "encode_text"):
        raise BundleError(
            f"{type(model).__name__} has no text tower", hint=_NO_TEXT, found=type(model).__name__
        )

    class Tower(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: Any) -> Any:
            return self.model.encode_text(tokens)

    tokens = torch.zeros(2, context, dtype=torch.int64)
    batch = torch.export.Dim("batch", min=1, max=1024)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                Tower().eval(),
                (tokens,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"tokens": {0: batch}},
                verbose=False,
            )
    except Exception as error:  # the exporter lets through whatever its stages raise
        found = " ".join(str(error).split())[:200]
        raise _cannot(type(model).__name__, f"torch: {found}") from error
    proto: onnx.ModelProto = program.model_proto
    wrapped, dim = wrap_text(proto, context, fp16_weights=True)
    content: bytes = wrapped.SerializeToString(deterministic=True)
    return content, dim


def _parity(model: Any, tower: TextTower, tokens: NDArray[np.int64]) -> float:
    """The smallest cosine between torch and ONNX Runtime; raises BundleError below the limit."""
    import torch

    with torch.no_grad():
        expected = model.encode_text(torch.from_numpy(tokens)).double().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    cosine = float((tower.embed_tokens(tokens) * expected).sum(axis=1).min())
    if not cosine >= MIN_TEXT_COSINE:
        raise BundleError(
            f"the text tower as ONNX has cosine {cosine:.6f} to torch's; "
            f"expected at least {MIN_TEXT_COSINE}",
            hint=_NO_TEXT,
            found=cosine,
            expected=MIN_TEXT_COSINE,
        )
    return cosine


def _check_names(entries: Sequence[tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        for name in entry:
            key = name_key(name)
            if not key or key in seen:
                raise UsageError(
                    f"the vocabulary has {name!r} twice ({seen[key]!r})"
                    if key
                    else "the vocabulary has an empty name",
                    found=name,
                )
            seen[key] = entry[0]
    if not seen:
        raise UsageError("the vocabulary is empty; expected at least one name")


def _cannot(model_name: str, found: str) -> BundleError:
    return BundleError(
        f"the text part of {model_name} cannot be exported: {found}", hint=_NO_TEXT, found=found
    )


def _npy(vectors: NDArray[np.float32]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, vectors.astype("<f4"), version=(1, 0))
    return content.getvalue()
