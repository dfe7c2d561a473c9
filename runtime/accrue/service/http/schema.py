"""Dataclasses to JSON and back, and to JSON Schema. What is documented is what is checked."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from accrue.errors import UsageError

T = TypeVar("T")
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def plain(value: Any) -> Any:
    """The same as JSON knows it: dataclasses as objects, no NaN, no paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {in_json(f.name): plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def in_json(name: str) -> str:
    """What a field is called in JSON: `class` and `from` are no names in Python."""
    return {"class_name": "class", "from_": "from"}.get(name, name)


def read(cls: type[T], value: Any, where: str = "the body") -> T:
    """A dataclass from JSON. Raises UsageError with the field that does not fit."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is {_kind(value)}; expected an object", expected="object")
    fields = {in_json(f.name): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in value:
        if name not in fields:
            raise UsageError(
                f"{where} has an unknown field {str(name)[:40]!r}",
                hint=f"known fields: {', '.join(fields)}",
                found=str(name)[:40],
            )
    found, known = {}, typing.get_type_hints(cls)
    for name, field in fields.items():
        if name in value:
            found[field.name] = _read(known[field.name], value[name], name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(
                f"{where} lacks the field {name!r}",
                hint=f"known fields: {', '.join(fields)}",
                expected=name,
            )
    return cls(**found)


def read_text(cls: type[T], pairs: Mapping[str, str], where: str = "the query") -> T:
    """A dataclass from texts, as a query has them."""
    known = {in_json(name): kind for name, kind in typing.get_type_hints(cls).items()}
    value: dict[str, Any] = {}
    for name, text in pairs.items():
        value[name] = _from_text(known[name], text) if name in known else text
    return read(cls, value, where)


def _from_text(kind: Any, text: str) -> Any:
    options = [one for one in _options(kind) if one is not type(None)]
    for option in options:
        if option is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
            return text.lower() in ("true", "1", "yes")
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                return text
    return text


def _options(kind: Any) -> list[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [one for part in get_args(kind) for one in _options(part)]
    return [kind]


def _read(kind: Any, value: Any, name: str) -> Any:
    refusals = []
    for option in _options(kind):
        try:
            return _read_one(option, value, name)
        except UsageError as error:
            refusals.append(error)
    raise refusals[0]


def _read_one(kind: Any, value: Any, name: str) -> Any:
    def refuse(expected: str) -> UsageError:
        return UsageError(
            f"{name} is {_kind(value)}; expected {expected}", found=_kind(value), expected=expected
        )

    origin = get_origin(kind)
    if kind is type(None):
        if value is not None:
            raise refuse("null")
        return None
    if kind is bool:
        if not isinstance(value, bool):
            raise refuse("true or false")
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
            raise refuse("a whole number")
        return value
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refuse("a number")
        return float(value)
    if kind is str:
        if not isinstance(value, str):
            raise refuse("a text")
        if any("\ud800" <= character <= "\udfff" for character in value):  # JSON may escape halves
            raise UsageError(f"{name} has half a character", expected="whole characters")
        return value
    if origin is Literal:
        if value not in get_args(kind):
            raise refuse(", ".join(map(str, get_args(kind))))
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise refuse("a list")
        (inner, *_) = get_args(kind)
        return tuple(_read(inner, one, f"{name}[{i}]") for i, one in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return read(kind, value, name)  # type: ignore[arg-type]
    raise TypeError(f"{kind} cannot be read from JSON")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return "a list" if isinstance(value, Sequence) else "an object"


class Schemas:
    """JSON Schema of types, with the dataclasses gathered by name.

    Attributes:
        found: name to schema of each dataclass that was asked for.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._classes: dict[str, type] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            parts = [one for one in args if one is not type(None)]
            if len(parts) < len(args) and len(parts) > 1:
                return {"anyOf": [*map(self.of, parts), {"type": "null"}]}
            if len(parts) < len(args):
                inner = self.of(parts[0])
                if "type" in inner and isinstance(inner["type"], str):
                    return {**inner, "type": [inner["type"], "null"]}
                return {"anyOf": [inner, {"type": "null"}]}
            return {"anyOf": [self.of(one) for one in parts]}
        if origin is Literal:
            return {"type": "string", "enum": list(args)}
        if origin in (tuple, list, Sequence):
            return {"type": "array", "items": self.of(args[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1])}
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if kind is Path:
            return {"type": "string"}
        if kind is Any:
            return {}
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._class(kind)
        raise TypeError(f"{kind} has no JSON Schema")

    def _class(self, cls: type) -> dict[str, Any]:
        name = cls.__name__
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"two dataclasses are called {name}")
        if name not in self.found:
            self.found[name] = {}  # so that it may refer to itself
            about, each = _described(cls)
            properties, required, known = {}, [], typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                schema = self.of(known[field.name])
                if field.name in each:
                    schema = {**schema, "description": each[field.name]}
                properties[in_json(field.name)] = schema
                if (
                    field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING
                ):
                    required.append(in_json(field.name))
            self.found[name] = {
                "type": "object",
                "description": about,
                "properties": properties,
                **({"required": required} if required else {}),
            }
        return {"$ref": f"#/components/schemas/{name}"}


def _described(cls: type) -> tuple[str, dict[str, str]]:
    """First line of the docstring, and what it says of each attribute, as far as one at a time."""
    doc = inspect.getdoc(cls) or ""
    if doc.startswith(f"{cls.__name__}("):  # made by dataclass: there is none
        doc = ""
    first = " ".join(doc.split("\n\n")[0].split())
    each: dict[str, str] = {}
    _, _, attributes = doc.partition("Attributes:")
    names = {field.name for field in dataclasses.fields(cls)}
    text = " ".join(attributes.split())
    marks: list[tuple[int, int, list[str]]] = []
    position = 0
    for part in text.split(": ")[:-1]:
        position += len(part)
        said = part.replace(". ", ".\0").split("\0")[-1]
        listed = [one.strip() for one in said.split(",")]
        if all(one in names for one in listed):
            marks.append((position - len(said), position + 2, listed))
        position += 2
    for i, (_, start, listed) in enumerate(marks):
        end = marks[i + 1][0] if i + 1 < len(marks) else len(text)
        for name in listed:
            each[name] = text[start:end].strip()
    return first, each
