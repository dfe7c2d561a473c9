"""Encoders that are known to work, and what the licence of their weights allows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from accrue.errors import UsageError

# Names as SPDX has them. Whatever is not here is taken as restricting the use of the weights.
PERMISSIVE = frozenset(
    {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC"}
)
APPLE = "apple-amlr"  # Apple Machine Learning Research Model licence: research only
_TEXTS_AT = {
    APPLE: "https://github.com/apple/ml-mobileclip/blob/main/LICENSE_MODELS",
    "MIT": "https://spdx.org/licenses/MIT.html",
    "CC-BY-NC-4.0": "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
}


@dataclass(frozen=True)
class Known:
    """An encoder that has gone through the export.

    Attributes:
        name, tag: as for ``build NAME --pretrained TAG``.
        parameters: of the image tower after reparameterising, in millions.
        size: side of the input, px.
    """

    name: str
    tag: str
    library: str
    parameters: float
    dim: int
    size: int
    licence: str

    @property
    def restricted(self) -> bool:
        return self.licence not in PERMISSIVE


def known() -> list[Known]:
    """The catalogue, a row each; dimensions and parameters were counted at export."""
    rows = (resources.files("accrue_export") / "catalogue.tsv").read_text(encoding="utf-8")
    found = []
    for line in rows.splitlines()[1:]:
        name, tag, library, parameters, dim, size, licence = line.split("\t")
        found.append(Known(name, tag, library, float(parameters), int(dim), int(size), licence))
    return found


def canonical(licence: str) -> str:
    """``apache-2.0`` as SPDX writes it; other names as they are."""
    return next((name for name in PERMISSIVE if name.lower() == licence.lower()), licence)


def open_clip_licence(name: str, tag: str) -> str:
    """Of the weights of an open_clip tag; empty where this project does not know it."""
    if name.startswith("MobileCLIP"):
        return APPLE
    if tag.startswith(("openai", "laion", "datacomp_", "commonpool_")):
        return "MIT"
    if tag == "webli":  # SigLIP and SigLIP 2
        return "Apache-2.0"
    if tag.startswith("metaclip_"):
        return "CC-BY-NC-4.0"
    return ""


def require_licence(name: str, what: str) -> str:
    """The licence's name, if there is one.

    Raises:
        UsageError: it is not known.
    """
    if not name:
        raise UsageError(
            f"the licence of the weights of {what} is not known here",
            hint="say it with --licence NAME (an SPDX identifier where there is one)",
        )
    return canonical(name)


def require_acceptance(licence: str, accepted: str, what: str) -> None:
    """Restricted weights are an explicit choice.

    Raises:
        UsageError: the licence restricts use and its name was not given.
    """
    if licence not in PERMISSIVE and accepted != licence:
        said = f", not {accepted!r}" if accepted else ""
        raise UsageError(
            f"the weights of {what} are under {licence}, which may limit what they and all that "
            "is made from them may be used for",
            hint=f"read it, and if your use is allowed add: --accept-licence {licence}{said}",
            licence=licence,
        )


def licence_text(licence: str, what: str) -> str:
    """What goes into the bundle where no licence file was given or found beside the weights."""
    if licence == "Apache-2.0":
        text = resources.files("accrue_export") / "licences" / "Apache-2.0.txt"
        return f"The weights of {what} are under Apache-2.0.\n\n{text.read_text(encoding='utf-8')}"
    where = _TEXTS_AT.get(licence)
    tail = f"The text stands at {where}\n" if where else "Its text comes with the weights.\n"
    return f"The weights of {what} are under {licence}.\n{tail}"
