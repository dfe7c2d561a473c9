"""How the console looks and sounds on one screen: in a cookie of that screen, not on the box."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from accrue.service.console.words import LANGUAGES, chosen

COOKIE = "accrue_look"
CHOICES: dict[str, tuple[str, ...]] = {
    "language": tuple(LANGUAGES),
    "theme": ("sun", "dark"),
    "hand": ("right", "left"),
    "shutter": ("toggle", "hold"),
    "size": ("normal", "glove"),
    "sound": ("on", "off"),
    "vibrate": ("on", "off"),
}


@dataclass(frozen=True)
class Look:
    """Attributes: each is one of its `CHOICES`; the first is the default, but of the language."""

    language: str
    theme: str = "sun"
    hand: str = "right"
    shutter: str = "toggle"
    size: str = "normal"
    sound: str = "on"
    vibrate: str = "on"

    @classmethod
    def of(cls, cookie: str, accepted: str) -> Look:
        """From the cookie and the languages that the browser accepts; what does not fit is left."""
        given = dict(part.split(":", 1) for part in cookie[:400].split("|") if ":" in part)
        known = {k: v for k, v in given.items() if v in CHOICES.get(k, ())}
        return cls(**{**known, "language": chosen(known.get("language"), accepted)})

    def changed(self, form: Any) -> Look:
        """With the choices of a form."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        for key, choices in CHOICES.items():
            if form.get(key) in choices:
                values[key] = form[key]
        return Look(**values)

    def cookie(self) -> str:
        return "|".join(f"{key.name}:{getattr(self, key.name)}" for key in fields(self))
