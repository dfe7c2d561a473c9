"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import accrue.learn

MODULES = [f"accrue.learn.{m.name}" for m in pkgutil.iter_modules(accrue.learn.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    """Each example in a module's docstrings prints what it says."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_is_an_example_of_the_learner() -> None:
    """The learner, where a reader begins, has an example."""
    assert doctest.testmod(importlib.import_module("accrue.learn.learner")).attempted > 3
