"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["clock", "trust"])
def test_examples(name: str) -> None:
    """Each example in a module's docstrings prints what it says."""
    found = doctest.testmod(importlib.import_module(f"accrue.sync.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
