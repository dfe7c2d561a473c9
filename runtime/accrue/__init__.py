"""Accrue teaches a camera new classes on the device itself."""

__version__ = "0.1.0"
