"""The workstation's side of Accrue: writing encoder bundles."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accrue_export.golden import golden_images
    from accrue_export.write import pack, write_bundle

__all__ = ["golden_images", "pack", "write_bundle"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that the command can say that the extra is not installed."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "golden" if name == "golden_images" else "write"
    return getattr(import_module(f"{__name__}.{module}"), name)
