"""The workstation's side of Accrue: writing encoder bundles."""

from accrue_export.golden import golden_images
from accrue_export.write import pack, write_bundle

__all__ = ["golden_images", "pack", "write_bundle"]
