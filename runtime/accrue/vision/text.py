"""From typed names to vectors of a bundle's embedding space, without a network and without torch.

A bundle of a model with a text tower may carry vectors for a vocabulary, and the tower with its
tokenizer for names that are not in it; docs/reference/bundle.md gives the format.
"""

from __future__ import annotations

import html
import json
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.bundle import Bundle
from accrue.errors import AccrueError, BundleError, NotFound, UsageError
from accrue.vision.encode import _failures, _one_line, _onnxruntime, _session_options

Vectors = NDArray[np.float32]

NAMES = "text/names.json"
VECTORS = "text/vectors.npy"
TOWER = "text/encoder.onnx"
TOKENIZER = "text/tokenizer.json"
BATCH = 16  # texts; a tower of 12 layers at 77 tokens then takes about 100 MB beside its weights
LONGEST_CONTEXT = 4_096  # tokens; CLIP has 77, SigLIP 64
TEMPLATE_LIMIT = 100
NAME_LIMIT = 100_000
_LENGTH_TOLERANCE = 1e-2  # of the unit norm, as for images
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_APART = re.compile(r"[\s_-]+")
_AGAIN = "export the bundle again"


@dataclass(frozen=True)
class TextPart:
    """What the manifest says of the text part.

    Attributes:
        dim: of its vectors; that of the images.
        context: tokens of one text, padded with `pad`; the last real one is `end`.
        clean: what is done to a text before the tokenizer, see `clean`.
        templates: sentences with one `{}` for the name, whose vectors are averaged.
        logit_scale, logit_bias: of the model: its image-text logits are scale * cosine + bias.
    """

    dim: int
    context: int
    pad: int
    end: int
    clean: str
    templates: tuple[str, ...]
    logit_scale: float
    logit_bias: float

    def document(self) -> dict[str, Any]:
        """As in the manifest."""
        return {**asdict(self), "templates": list(self.templates)}


def text_part(bundle: Bundle) -> TextPart:
    """The text part of a bundle.

    Raises:
        NotFound: the bundle has none.
        BundleError: it does not fit the format, or its vectors are not of the images' space.
    """
    found = bundle.manifest.text
    if found is None:
        raise NotFound(
            f"bundle {bundle.path} has no text part, so its encoder cannot learn from a name alone",
            hint="teach from photos, or use a bundle of a model with a text tower (CLIP, SigLIP)",
            path=str(bundle.path),
            file=NAMES,
        )
    templates = found.get("templates")
    if (
        not isinstance(templates, list)
        or not 1 <= len(templates) <= TEMPLATE_LIMIT
        or not all(isinstance(t, str) and t.count("{}") == 1 for t in templates)
    ):
        raise _unfit(bundle, "templates", "a list of texts with one {} each")
    if str(found.get("clean")) not in CLEANING:
        raise _unfit(bundle, "clean", " or ".join(CLEANING))
    part = TextPart(
        dim=_whole(bundle, "dim", 1, 2**31),
        context=_whole(bundle, "context", 2, LONGEST_CONTEXT),
        pad=_whole(bundle, "pad", 0, 2**31),
        end=_whole(bundle, "end", 0, 2**31),
        clean=str(found["clean"]),
        templates=tuple(templates),
        logit_scale=_number(bundle, "logit_scale"),
        logit_bias=_number(bundle, "logit_bias"),
    )
    if part.dim != bundle.manifest.dim:
        raise _unfit(bundle, "dim", f"{bundle.manifest.dim}, as its images have")
    return part


def name_key(name: str) -> str:
    """The form in which names of the vocabulary are compared: "Hex-Bolt" is "hex bolt"."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _APART.sub(" ", folded).strip()


def clean(text: str, kind: str) -> str:
    """A text as a model's tokenizer wants it: NFC, HTML entities resolved, single spaces, and

    * ``whitespace``: nothing more,
    * ``lower``: lower case (CLIP),
    * ``canonicalize``: lower case, ``_`` as a space, no ASCII punctuation (SigLIP).

    As open_clip's functions of these names, but for ftfy: broken encodings, curly quotes,
    ligatures and wide letters stay as they are.
    """
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return CLEANING[kind](text)


def _spaced(text: str) -> str:
    return " ".join(text.split())


CLEANING: dict[str, Callable[[str], str]] = {
    "whitespace": _spaced,
    "lower": lambda text: _spaced(text).lower(),
    "canonicalize": lambda text: _spaced(text.replace("_", " ").translate(_PUNCTUATION).lower()),
}


class TextTokenizer:
    """Token ids of texts, by the package ``tokenizers``, from the bytes of a tokenizer.json.

    Raises:
        AccrueError: the package is not installed.
        ValueError: the bytes are no tokenizer.
    """

    def __init__(self, content: bytes, part: TextPart) -> None:
        tokenizers = _tokenizers()
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the package raises plain Exception
            raise ValueError(_one_line(error)) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._part = part

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 (n, context).

        Raises:
            UsageError: a text has more tokens than the model reads.
            ValueError: the tokenizer does not close it with the token that the manifest names.
        """
        part = self._part
        tokens = np.full((len(texts), part.context), part.pad, np.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = self._tokenizer.encode(clean(text, part.clean)).ids
            if len(ids) > part.context:
                raise UsageError(
                    f"{_short(text)} has {len(ids)} tokens; the text tower reads "
                    f"at most {part.context}",
                    hint="use fewer words",
                    found=len(ids),
                    expected=part.context,
                )
            if not ids or ids[-1] != part.end:
                raise ValueError(f"its last token is {ids[-1:]}; expected {part.end}")
            row[: len(ids)] = ids
        return tokens


class TextTower:
    """A text tower in ONNX Runtime with its tokenizer; both are loaded at the first text.

    Args:
        part: what they expect.
        read: gives the content of a file, as `Bundle.read`.
        path: of the bundle, for messages.
        threads: default: the cores this process may use.
    """

    def __init__(
        self,
        part: TextPart,
        read: Callable[[str], bytes],
        path: str,
        *,
        threads: int | None = None,
    ) -> None:
        self.part = part
        self._read = read
        self._path = path
        self._threads = threads

    def average(self, names: Sequence[str]) -> Vectors:
        """Unit-norm float32 (dim,): one thing under all its names, through all templates.

        The mean of the unit vectors, normalised (Radford et al. 2021, "Learning transferable
        visual models from natural language supervision", section 3.1.4). Raises as `embed`.
        """
        texts = [t.replace("{}", name) for name in names for t in self.part.templates]
        mean = self.embed(texts).astype(np.float64).mean(axis=0)  # (dim,)
        length = np.linalg.norm(mean)
        if not length > 0:
            raise self._broken(TOWER, f"the vectors of {_short(names[0])} cancel out")
        unit: Vectors = (mean / length).astype(np.float32)
        return unit

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit-norm float32 (n, dim) of texts as they are.

        Raises:
            UsageError: a text has too many tokens. AccrueError: the package tokenizers is missing.
            BundleError: the tower or the tokenizer fails.
        """
        try:
            tokens = self._tokenizer(texts)
        except ValueError as error:
            raise self._broken(TOKENIZER, _one_line(error)) from error
        parts = [self.embed_tokens(tokens[i : i + BATCH]) for i in range(0, len(tokens), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.part.dim), np.float32)

    def embed_tokens(self, tokens: NDArray[np.int64]) -> Vectors:
        """Unit-norm float32 (n, dim) of token ids, int64 (n, context). Raises BundleError."""
        session, failures = self._session
        try:
            found: Vectors = session.run(["embedding"], {"tokens": tokens})[0]
        except failures as error:
            raise self._broken(TOWER, f"ONNX Runtime cannot run it: {_one_line(error)}") from error
        if found.shape != (len(tokens), self.part.dim):
            raise self._broken(TOWER, f"it gave {found.shape}; expected {self.part.dim} columns")
        if not _are_units(found):
            raise self._broken(TOWER, "it gave a vector that is not of length 1")
        return found

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._read(TOKENIZER), self.part)

    @cached_property
    def _session(self) -> tuple[Any, tuple[type[Exception], ...]]:
        """The session, and what it raises."""
        ort = _onnxruntime()
        failures = _failures(ort)
        options = _session_options(ort, self._threads)
        content = self._read(TOWER)
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except failures as error:
            raise self._broken(TOWER, f"ONNX Runtime cannot load it: {_one_line(error)}") from error
        inputs = [(i.name, i.type) for i in session.get_inputs()]
        outputs = [(o.name, o.type) for o in session.get_outputs()]
        if inputs != [("tokens", "tensor(int64)")] or outputs != [("embedding", "tensor(float)")]:
            raise self._broken(TOWER, f"its signature is {inputs} -> {outputs}")
        return session, failures

    def _broken(self, file: str, found: str) -> BundleError:
        return _broken(self._path, file, found)


class TextEncoder:
    """Names to unit vectors of a bundle's space.

    The vocabulary is read when the object is made; tower and tokenizer when the first name comes
    that is not in it.

    Args:
        bundle: with a text part. threads: of the tower; default: the cores this process may use.

    Attributes:
        part: what the manifest says. tower: for texts of any form.
        names: entries of the vocabulary, each with its name first and then its synonyms.

    Raises:
        NotFound: the bundle has no text part. BundleError: it does not fit the format.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self.part = text_part(bundle)
        self.names = _names(bundle)
        self.tower = TextTower(self.part, bundle.read, str(bundle.path), threads=threads)
        self._vectors = bundle.float32(VECTORS, (len(self.names), self.part.dim))
        if not _are_units(self._vectors):
            raise _broken(str(bundle.path), VECTORS, "it holds a vector that is not of length 1")
        self._row = {name_key(name): row for row, names in enumerate(self.names) for name in names}

    def known(self, name: str) -> tuple[str, ...]:
        """The vocabulary's entry that has `name`: its name, then its synonyms; () if none has."""
        row = self._row.get(name_key(name))
        return () if row is None else self.names[row]

    def embed(self, names: Sequence[str]) -> Vectors:
        """Unit-norm float32 (n, dim) of class names.

        A name or synonym of the vocabulary has the vector that is shipped; any other one is
        worked out, `TextTower.average`, which says what it raises.
        """
        vectors = np.empty((len(names), self.part.dim), np.float32)
        for i, name in enumerate(names):
            row = self._row.get(name_key(name))
            vectors[i] = self.tower.average([name]) if row is None else self._vectors[row]
        return vectors


def _names(bundle: Bundle) -> tuple[tuple[str, ...], ...]:
    """Entries of the vocabulary, each with its name first and then its synonyms."""
    try:
        document = json.loads(bundle.read(NAMES))
    except (ValueError, RecursionError) as error:
        raise _broken(str(bundle.path), NAMES, f"no JSON: {_one_line(error)}") from error
    if not isinstance(document, list) or len(document) > NAME_LIMIT:
        raise _broken(
            str(bundle.path), NAMES, f"expected a list of at most {NAME_LIMIT:,} lists of texts"
        )
    for names in document:
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise _broken(
                str(bundle.path), NAMES, f"an entry {names!r:.60}; expected a list of texts"
            )
    return tuple(tuple(names) for names in document)


def _tokenizers() -> Any:
    """The module, imported late: most devices never need it."""
    try:
        import tokenizers
    except ImportError as error:
        raise AccrueError(
            "a name that is not in the bundle's vocabulary needs the package tokenizers: "
            f"{_one_line(error)}",
            hint='pip install "accrue[text]"',
        ) from error
    return tokenizers


def _whole(bundle: Bundle, key: str, low: int, high: int) -> int:
    value = (bundle.manifest.text or {}).get(key)
    if type(value) is not int or not low <= value <= high:
        raise _unfit(bundle, key, f"a whole number from {low:,} to {high:,}")
    return value


def _number(bundle: Bundle, key: str) -> float:
    value: Any = (bundle.manifest.text or {}).get(key)
    if type(value) not in (int, float) or not abs(value) <= 1e6:
        raise _unfit(bundle, key, "a number")
    return float(value)


def _unfit(bundle: Bundle, key: str, expected: str) -> BundleError:
    value = (bundle.manifest.text or {}).get(key)
    return BundleError(
        f"bundle {bundle.path}: its manifest has {value!r:.80} as 'text.{key}'; "
        f"expected {expected}",
        hint=_AGAIN,
        path=str(bundle.path),
        key=f"text.{key}",
        expected=expected,
    )


def _are_units(vectors: Vectors) -> bool:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool((np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all())


def _broken(path: str, file: str, found: str) -> BundleError:
    return BundleError(
        f"bundle {path}: {file}: {found}",
        hint=_AGAIN,
        path=path,
        file=file,
        found=found,
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
