"""Image encoders of open_clip and timm, ready to be traced: weights, preprocessing, licence.

Preprocessing is never a library's default for a file: it is that of the named weights, of all the
weights of the architecture where they agree, or what the caller says.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accrue.bundle import INTERPOLATIONS, Preprocess
from accrue.errors import AccrueError, BundleError, NotFound, UsageError
from accrue_export.catalogue import (
    canonical,
    open_clip_licence,
    require_acceptance,
    require_licence,
)
from accrue_export.steps import Step, silent

HUB = "hf-hub:"
OPSET = 18
_OR_SAY_IT = ", or say it with --mean --std --interpolation"
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE_MODELS")


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        model: an open_clip or timm name, or ``hf-hub:OWNER/NAME``.
        tag: of pretrained weights; with ``weights``, the one whose preprocessing they have.
        weights: a local file, safetensors or torch.
        seed: random weights, to try an architecture without any.
        size, resize, interpolation, mean, std: what to use in place of the model's own.
        licence: name of the licence of the weights, where the libraries do not know it.
    """

    model: str
    tag: str = ""
    weights: Path | None = None
    seed: int | None = None
    size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    licence: str = ""

    def check(self) -> None:
        """What can be told without loading torch, which takes up to a minute.

        Raises:
            UsageError: weights of two kinds. NotFound: no such file.
        """
        if self.seed is not None and (self.weights or self.tag):
            raise UsageError(
                "--random makes weights up; expected it without --weights and --pretrained"
            )
        if self.weights and not self.weights.is_file():
            raise NotFound(f"no weights file {self.weights}", path=str(self.weights))


@dataclass
class Tower:
    """An image encoder with its weights.

    Attributes:
        module: torch module, float32 (n, 3, size, size) normalised to (n, dim), in evaluation mode.
        clip: the whole open_clip model with its text tower, where there is one; clip_name: its
            name there.
        licence_text: as found beside the weights; may be empty.
        notes: what the bundle does otherwise than the training did.
    """

    module: Any
    name: str
    source: str
    preprocess: Preprocess
    licence: str
    licence_text: str = ""
    clip: Any = None
    clip_name: str = ""
    notes: list[str] = field(default_factory=list)


def load(request: Request, step: Step = silent) -> Tower:
    """The encoder with its weights, reparameterised where it can be.

    Raises:
        UsageError: an unknown model or tag (nearest names offered), or preprocessing or licence
            that must be said.
        NotFound: weights that cannot be fetched, or a file that is not there.
        BundleError: a weights file of another model.
    """
    request.check()
    need_libraries()
    with step(f"loading {request.model}"), _quiet():
        tower = (_from_hub if request.model.startswith(HUB) else _from_library)(request)
        from timm.utils import reparameterize_model

        tower.module = reparameterize_model(tower.module.eval())
    return tower


def check_licence(request: Request, accepted: str) -> None:
    """Refuse restricted weights before they are downloaded, where the licence is known by then."""
    request.check()
    need_libraries()
    if request.seed is None and not request.model.startswith(HUB):
        with _quiet():
            licence = request.licence or _listed_licence(request)
        if licence:
            require_acceptance(canonical(licence), accepted, request.model)


def to_onnx(tower: Tower, step: Step = silent) -> onnx.ModelProto:
    """The graph of the tower: float32 (batch, 3, size, size) to (batch, dim), opset 18.

    Raises:
        BundleError: torch cannot trace it.
    """
    import torch

    size = tower.preprocess.crop
    example = torch.zeros(2, 3, size, size)
    with step("exporting to ONNX"), _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                tower.module,
                (example,),
                input_names=["planes"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # whatever torch raises there, it means this one thing
            raise BundleError(
                f"{tower.name} cannot be exported to ONNX: {_first_line(error)}",
                hint="its module does what torch.export cannot trace",
            ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def features(tower: Tower, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the torch module gives for preprocessed images (n, size, size, 3): float32 (n, dim)."""
    import torch

    mean, std = (
        np.array(v, np.float64) * 255 for v in (tower.preprocess.mean, tower.preprocess.std)
    )
    planes = ((prepared - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        rows = [tower.module(torch.from_numpy(plane[None].copy())).numpy() for plane in planes]
    return np.concatenate(rows).reshape(len(rows), -1)


def dim_of(tower: Tower) -> int:
    """Values of an embedding."""
    size = tower.preprocess.crop
    return len(features(tower, np.zeros((1, size, size, 3), np.uint8))[0])


def versions() -> dict[str, str]:
    """Of what the graph depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "timm", "open_clip_torch", "onnxscript")}


def _listed_licence(request: Request) -> str:
    import open_clip
    import timm

    name = request.model.replace("/", "-")
    if name in open_clip.list_models():
        return open_clip_licence(name, request.tag)
    if timm.is_model(request.model):
        config = timm.get_pretrained_cfg(".".join(filter(None, (request.model, request.tag))))
        found = config.license if config else ""
        return "" if found in (None, "unknown", "other") else str(found)
    return ""


# ---- which model -------------------------------------------------------------------------------


def _from_library(request: Request) -> Tower:
    import open_clip
    import timm

    name = request.model.replace("/", "-")
    if name in open_clip.list_models():
        return _open_clip_tower(request, name)
    if timm.is_model(request.model):
        return _timm_tower(request)
    known = [*open_clip.list_models(), *timm.list_models()]
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower().split(".")[0], lower, n=5, cutoff=0.5)
    raise UsageError(
        f"neither open_clip nor timm has a model {request.model!r}",
        hint=f"near it: {', '.join(lower[one] for one in near)}"
        if near
        else "accrue-export models lists some; a hub id is written hf-hub:OWNER/NAME",
        found=request.model,
    )


def _open_clip_tower(request: Request, name: str) -> Tower:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = request.tag
    if tag:
        _need_tag(name, tag, tags)
    elif request.weights is None and request.seed is None:
        raise _which_weights(name, tags)
    configs = {one: get_pretrained_cfg(name, one) for one in ([tag] if tag else tags)}
    choices = {
        one: (*(tuple(c["mean"]), tuple(c["std"])), c["interpolation"], c["resize_mode"])
        for one, c in configs.items()
    }
    if request.seed is None:
        activations = {one: (bool(c.get("quick_gelu")),) for one, c in configs.items()}
        _need_agreement(request, name, "activation functions", activations, "")
    (mean, std, interpolation, mode), how = _agreed(request, name, choices)
    quick = any(config.get("quick_gelu") for config in configs.values())
    clip = _new_clip(request, name, quick_gelu=bool(quick) and request.seed is None)
    source = f"open_clip {name}, random weights, seed {request.seed}"
    text = ""
    if request.weights:
        _load_clip(clip, request.weights, name)
        source = f"open_clip {name}, weights file {request.weights.name}"
    elif tag:
        path, source = _fetch_open_clip(name, tag, configs[tag])
        _load_clip(clip, path, name)
        text = _licence_beside(configs[tag].get("hf_hub", ""))
    licence = _licence(request, {one: open_clip_licence(name, one) for one in configs}, name)
    size = _side(clip.visual.image_size)
    preprocess = _preprocess(request, size, size, interpolation, mean, std)
    title = _title(name, tag, request)
    tower = Tower(_ImageOnly(clip), title, source, preprocess, licence, text, clip, name)
    tower.notes += _notes(mode, how)
    return tower


def _timm_tower(request: Request) -> Tower:
    import timm
    from timm.models import split_model_name_tag

    arch, tag = split_model_name_tag(request.model)
    tag = request.tag or tag
    configs = {
        one: timm.get_pretrained_cfg(f"{arch}.{one}" if one else arch) for one in _timm_tags(arch)
    }
    if tag:
        _need_tag(arch, tag, list(configs))
        configs = {tag: configs[tag]}
    elif request.weights is None and request.seed is None:
        raise _which_weights(arch, [one for one in configs if one])
    documents = {one: config.to_dict() for one, config in configs.items() if config}
    name = f"{arch}.{tag}" if tag else arch
    licences = {one: document.get("license") or "" for one, document in documents.items()}
    return _timm_built(request, name, arch, documents, licences)


def _timm_built(
    request: Request,
    name: str,
    arch: str,
    documents: Mapping[str, dict[str, Any]],
    licences: Mapping[str, str],
) -> Tower:
    import timm

    choices = {one: _timm_choice(document) for one, document in documents.items()}
    (mean, std, interpolation, mode, side, crop), how = _agreed(request, arch, choices)
    config = next(iter(documents.values()), {})
    classes = config.get("num_classes") or 0
    arguments: dict[str, Any] = {"num_classes": classes}
    size = request.size or side
    if config.get("fixed_input_size") and size != config["input_size"][1]:
        arguments["img_size"] = size
    if request.seed is not None:
        _seed(request.seed)
        module = timm.create_model(arch, pretrained=False, **arguments)
        source, text = f"timm {name}, random weights, seed {request.seed}", ""
    else:
        if request.weights:
            path, source = request.weights, f"timm {name}, weights file {request.weights.name}"
            text = ""
        else:
            path, source = _fetch_timm(name, config)
            text = _licence_beside(str(config.get("hf_hub_id") or ""))
        overlay = {"state_dict": _state_dict(path), "custom_load": False}
        with _another_model(path, name):
            module = timm.create_model(
                arch, pretrained=True, pretrained_cfg={**config, **overlay}, **arguments
            )
    if classes:
        module.reset_classifier(0)
    licence = _licence(request, licences, arch)
    resize = int(size / crop)
    preprocess = _preprocess(request, size, resize, interpolation, mean, std)
    title = name if request.seed is None else _title(name, "", request)
    tower = Tower(module, title, source, preprocess, licence, text)
    tower.notes += _notes(mode, how)
    return tower


def _timm_choice(document: dict[str, Any]) -> tuple[Any, ...]:
    mode = document.get("crop_mode") or "center"
    return (
        tuple(document["mean"]),
        tuple(document["std"]),
        document["interpolation"],
        "shortest" if mode == "center" else mode,
        document["input_size"][1],
        document.get("crop_pct") or 0.875,
    )


def _timm_tags(arch: str) -> list[str]:
    import timm

    named = [one.partition(".")[2] for one in timm.list_models(f"{arch}.*", pretrained=True)]
    return named or [""]


def _from_hub(request: Request) -> Tower:
    """A hub id; its own configuration says library, architecture and preprocessing."""
    repo = request.model[len(HUB) :]
    if request.tag or request.weights or request.seed is not None:
        raise UsageError(
            f"{request.model} has its own weights; expected no --pretrained, --weights or --random"
        )
    import open_clip

    found = _fetch(repo, ("open_clip_config.json", "config.json"))
    try:
        document = json.loads(found.read_text(encoding="utf-8"))
        if found.name == "open_clip_config.json":
            wanted = document.get("preprocess_cfg", {})
            choice = {key: wanted[key] for key in ("mean", "std")}
        else:
            arch = document["architecture"]
            config = {**document["pretrained_cfg"], "hf_hub_id": repo, "architecture": arch}
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{repo}: {found.name} is no configuration of open_clip or timm: {_first_line(error)}",
            hint="give the architecture and the file: accrue-export build NAME --weights FILE",
        ) from error
    licences = {"": _hub_licence(repo)}
    if found.name == "config.json":
        config.setdefault("num_classes", document.get("num_classes", 0))
        return _timm_built(request, repo, arch, {"": config}, licences)
    path = _fetch(repo, _OPEN_CLIP_FILES)
    with _another_model(path, repo):
        clip = open_clip.create_model(request.model, load_weights=False)
    _load_clip(clip, path, repo)
    size = _side(clip.visual.image_size)
    preprocess = _preprocess(
        request,
        size,
        size,
        wanted.get("interpolation", "bicubic"),
        tuple(choice["mean"]),
        tuple(choice["std"]),
    )
    source = f"{repo} on the Hugging Face hub"
    tower = Tower(_ImageOnly(clip), repo, source, preprocess, _licence(request, licences, repo))
    tower.clip, tower.clip_name = clip, request.model
    tower.licence_text = _licence_beside(f"{repo}/")
    tower.notes += _notes(wanted.get("resize_mode", "shortest"), "its hub configuration")
    return tower


# ---- preprocessing and licence -----------------------------------------------------------------


def _agreed(
    request: Request, name: str, choices: Mapping[str, tuple[Any, ...]]
) -> tuple[tuple[Any, ...], str]:
    """The one preprocessing of all tags, or a refusal; and where it is from."""
    explicit = request.mean and request.std and request.interpolation
    if request.seed is None and not explicit:
        _need_agreement(
            request, name, "preprocessing", choices, ", or --mean --std --interpolation"
        )
    if not choices:
        raise UsageError(f"{name} has no known preprocessing; say it with --mean --std ...")
    tag, choice = next(iter(choices.items()))
    return choice, f"the weights {tag!r}" if tag else "the architecture"


def _need_agreement(
    request: Request, name: str, what: str, choices: Mapping[str, tuple[Any, ...]], more: str
) -> None:
    if len(set(choices.values())) <= 1:
        return
    tags = ", ".join(list(choices)[:6]) + (" ..." if len(choices) > 6 else "")
    raise UsageError(
        f"the weights of {name} differ in {what}, and a file does not say which it has",
        hint=f"name the weights it descends from with --pretrained ({tags}){more}",
        found=str(request.weights),
    )


def _licence(request: Request, licences: Mapping[str, str], name: str) -> str:
    if request.licence:
        return require_licence(request.licence, name)
    if request.seed is not None:
        return "CC0-1.0"  # random numbers
    found = set(licences.values())
    one = found.pop() if len(found) == 1 else ""
    return require_licence("" if one in ("unknown", "other") else one, name)


def _preprocess(
    request: Request,
    size: int,
    resize: int,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Preprocess:
    crop = request.size or size
    chosen = request.interpolation or interpolation
    if chosen not in INTERPOLATIONS:
        raise UsageError(
            f"the model was trained with {chosen!r} interpolation; a bundle has "
            f"{' or '.join(INTERPOLATIONS)}",
            hint="choose one with --interpolation",
        )
    r, g, b = (float(v) for v in request.mean or mean)
    s, t, u = (float(v) for v in request.std or std)
    return Preprocess(max(request.resize or resize, crop), crop, chosen, (r, g, b), (s, t, u))


def _notes(mode: str, how: str) -> list[str]:
    notes = [f"Preprocessing is that of {how}, but where options of the build say otherwise."]
    if mode != "shortest":
        notes.append(
            f"The model was trained with images brought to a square by '{mode}'; here the short "
            "side is resized and the centre cropped, so long images lose their ends."
        )
    return notes


def _title(name: str, tag: str, request: Request) -> str:
    if request.seed is not None:
        return f"{name} (random weights)"
    return f"{name}.{tag}" if tag else name


# ---- weights -----------------------------------------------------------------------------------


def _new_clip(request: Request, name: str, *, quick_gelu: bool) -> Any:
    import open_clip

    if request.seed is not None:
        _seed(request.seed)
    return open_clip.create_model(
        name,
        pretrained=None,
        force_quick_gelu=quick_gelu,
        force_image_size=request.size,
        pretrained_text=False,
    )


def _load_clip(clip: Any, path: Path, name: str) -> None:
    from open_clip.factory import load_checkpoint

    with _another_model(path, name):
        load_checkpoint(clip, str(path), weights_only=True)


def _state_dict(path: Path) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise _no_weights(path, error) from error
    except Exception as error:  # pickle's own errors have no common base
        raise _no_weights(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise _no_weights(path, TypeError(f"it holds {type(loaded).__name__}"))
    return loaded


def _no_weights(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path} holds no weights: {_first_line(error)}",
        hint="give a safetensors or torch file that holds tensors alone",
        path=str(path),
    )


@contextlib.contextmanager
def _another_model(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except AccrueError:
        raise
    except Exception as error:  # both libraries raise whatever their loading meets
        raise BundleError(
            f"{path} does not hold the weights of {name}: {_first_line(error)}",
            hint="give the file of this very model; accrue-export models lists names",
            path=str(path),
        ) from error


def _fetch_open_clip(name: str, tag: str, config: Mapping[str, Any]) -> tuple[Path, str]:
    repo, _, file = config.get("hf_hub", "").rpartition("/")
    if repo:
        path = _fetch(repo, (file,) if file else _OPEN_CLIP_FILES)
        return path, f"open_clip {name}, {tag}; {repo} on the Hugging Face hub"
    from open_clip.pretrained import download_pretrained

    url = config.get("url", "")
    try:
        return Path(download_pretrained(dict(config))), f"open_clip {name}, {tag}; {url}"
    except Exception as error:
        raise _unreachable(url, error) from error


def _fetch_timm(name: str, config: Mapping[str, Any]) -> tuple[Path, str]:
    repo, file = config.get("hf_hub_id"), config.get("hf_hub_filename")
    if repo:
        path = _fetch(str(repo), (str(file),) if file else _TIMM_FILES)
        return path, f"timm {name}; {repo} on the Hugging Face hub"
    url = str(config.get("url") or "")
    if not url:
        raise UsageError(
            f"timm has no weights for {name}", hint="bring a file: --weights FILE", found=name
        )
    import torch

    try:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / url.rpartition("/")[2]
        if not path.exists():
            torch.hub.download_url_to_file(url, str(path))
        return path, f"timm {name}; {url}"
    except Exception as error:
        raise _unreachable(url, error) from error


def _fetch(repo: str, files: Sequence[str]) -> Path:
    """The first of these files that the hub has; a download that broke off goes on where it was."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(hf_hub_download(repo, file))
        except LocalEntryNotFoundError as error:  # no network, and not in the cache
            raise _unreachable(f"{file} of {repo}", error) from error
        except EntryNotFoundError as error:
            if file == files[-1]:
                raise _unreachable(f"{' or '.join(files)} of {repo}", error) from error
        except Exception as error:  # its errors and those of its HTTP library have no common base
            raise _unreachable(f"{file} of {repo}", error) from error
    raise AssertionError("no file was named")


def _unreachable(what: str, error: Exception) -> NotFound:
    return NotFound(
        f"cannot fetch {what} from the hub: {_first_line(error)}",
        hint="bring the file from a machine with a network, then: "
        "accrue-export build MODEL --weights FILE",
        found=what,
    )


def _licence_beside(hub: str) -> str:
    """The text of the licence file in the weights' repository; empty where there is none."""
    repo = hub.rpartition("/")[0] if hub.count("/") > 1 or hub.endswith("/") else hub
    if not repo:
        return ""
    try:
        return _fetch(repo, _LICENCE_FILES).read_text(encoding="utf-8")
    except (NotFound, UnicodeDecodeError):
        return ""


def _hub_licence(repo: str) -> str:
    """By its model card."""
    from huggingface_hub import model_info

    try:
        card: Any = model_info(repo).card_data
    except Exception:  # then the caller has to say it
        return ""
    found = (card or {}).get("license") or ""
    return str((card or {}).get("license_name") or "") if found == "other" else str(found)


# ---- small things ------------------------------------------------------------------------------


def _ImageOnly(clip: Any) -> Any:  # noqa: N802  a module, made late because torch is imported late
    import torch

    class ImageOnly(torch.nn.Module):  # type: ignore[misc]  # Any where torch is absent
        """The image tower; of towers that also give their tokens, the pooled embedding alone."""

        def __init__(self, visual: Any) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, planes: Any) -> Any:
            found = self.visual(planes)
            return found[0] if isinstance(found, tuple) else found

    return ImageOnly(clip.visual)


def need_libraries() -> None:
    missing = [name for name in ("torch", "open_clip", "timm") if find_spec(name) is None]
    if missing:
        raise AccrueError(
            f"build needs {' and '.join(missing)}, not installed here",
            hint='pip install "accrue[export]"',
        )


def _need_tag(name: str, tag: str, tags: Sequence[str]) -> None:
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3) or list(tags)[:3]
        raise UsageError(
            f"{name} has no pretrained weights {tag!r}", hint=f"near it: {', '.join(near)}"
        )


def _which_weights(name: str, tags: Sequence[str]) -> UsageError:
    known = ", ".join(tags[:6]) + (" ..." if len(tags) > 6 else "")
    return UsageError(
        f"{name}: which weights?",
        hint=f"add --pretrained TAG ({known or 'it has none'}), --weights FILE or --random SEED",
    )


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries print, log and warn of while they load and trace."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
