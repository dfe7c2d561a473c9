"""What a class may be called, when two names are the same, and the id that follows from a name."""

from __future__ import annotations

import unicodedata
import uuid

from accrue.errors import UsageError

ACCRUE_NAMESPACE = uuid.UUID(
    "6f1c1f0e-5d0b-5a3c-9a55-2f6d0c9be7a1"
)  # fixed for ever: ids depend on it
NAME_LIMIT = 200  # characters
PROMPT_LIMIT = 1_000  # characters; a text tower reads far fewer
_SHOWN_CHARACTERS = 40
_REFUSED = {
    "Cc": "a control character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


def shown(text: str) -> str:
    """The text in quotes for a message: one line, printable everywhere, at most ~40 characters."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + '"'


def clean_name(name: str) -> str:
    """The name in NFC without surrounding whitespace.

    Raises:
        UsageError: nothing visible in it, a control character or line break, a lone surrogate, or
            more than 200 characters.
    """
    clean = unicodedata.normalize("NFC", name).strip()
    if len(clean) > NAME_LIMIT:
        raise UsageError(
            f"class name {shown(clean)} has {len(clean):,} characters; at most {NAME_LIMIT}",
            hint="use a shorter name",
            found=len(clean),
            expected=NAME_LIMIT,
        )
    categories = [unicodedata.category(c) for c in clean]
    for character, category in zip(clean, categories, strict=True):
        if category in _REFUSED:
            raise UsageError(
                f"class name {shown(clean)} holds {_REFUSED[category]} ({character!a})",
                hint="use a name of one line that can be printed",
                found=ascii(character),
            )
    if all(category[0] in "ZC" for category in categories):
        raise UsageError(
            f"class name {shown(clean)} is empty; expected something visible",
            hint="give the class a name",
        )
    return clean


def clean_prompt(prompt: str) -> str:
    """What a class is taught by, with single spaces.

    Raises:
        UsageError: nothing in it, more than 1,000 characters, or some that cannot be printed.
    """
    clean = " ".join(prompt.split())
    if not (0 < len(clean) <= PROMPT_LIMIT and clean.isprintable()):
        raise UsageError(
            f"prompt {shown(clean)} of {len(clean):,} characters; expected one line of "
            f"1 to {PROMPT_LIMIT:,} that can be printed",
            hint='for example: --prompt "a photo of a rusty hex bolt"',
            found=len(clean),
            expected=PROMPT_LIMIT,
        )
    return clean


def class_key(name: str) -> str:
    """The form in which names are compared: Unicode's compatibility caseless matching, in NFKC.

    Applying it again changes nothing.
    """
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", folded).casefold())


def class_id(class_set: str, name: str) -> str:
    """UUIDv5 of (class set, `class_key(name)`): two devices that teach a label teach one class."""
    return str(uuid.uuid5(uuid.uuid5(ACCRUE_NAMESPACE, class_set), class_key(name)))
