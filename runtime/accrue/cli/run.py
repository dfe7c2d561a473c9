"""One call of a program of ours: from its words to its exit code. `accrue` and `accrue-fleet`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from accrue.cli.output import emit, note
from accrue.errors import AccrueError, UsageError, error_object

INTERRUPTED = 130
# As a power of two of clock cycles, 2**28 by itself: how long a thread of OpenBLAS that has nothing
# to do turns round before it sleeps. A camera asks more often than every tenth of a second, and one
# answer of a thousand classes would so keep a core busy for ever: docs/experiments.md.
BLAS_SPIN = "17"


def run(
    app: typer.Typer,
    program: str,
    arguments: list[str] | None,
    values: Sequence[str],
    switches: Sequence[str] = (),
) -> None:
    """Runs one call and leaves with its exit code.

    Args:
        arguments: the words after the program's name; None: those of this process.
        values, switches: global flags with and without a value, which may stand anywhere.
    """
    words = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", BLAS_SPIN)  # read when numpy is imported
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may be no text in the stream's encoding
            stream.reconfigure(errors="backslashreplace")
    if f"_{program.replace('-', '_').upper()}_COMPLETE" in os.environ:
        import typer.completion as shells

        shells.completion_init()  # type: ignore[attr-defined]
    sys.exit(_run(app, program, words, hoisted(words, values, switches)))


def hoisted(arguments: list[str], values: Sequence[str], switches: Sequence[str] = ()) -> list[str]:
    """The same call with the global flags in front, where the parser expects them."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word in values:
            front += [word, *[value for value in [next(waiting, None)] if value is not None]]
        elif word in switches or word.split("=", 1)[0] in values:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def _run(app: typer.Typer, program: str, words: list[str], ordered: list[str]) -> int:
    try:
        code = app(args=ordered, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except AccrueError as error:
        note(f"{program}: {error.message}")
        if error.hint:
            note(f"  {error.hint}")
        if "--json" in words or "--jsonl" in words:
            emit({"error": error_object(error)}, indent=2 if "--json" in words else None)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        note(f"{program}: interrupted; what was acknowledged is kept")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # words that typer refused
            error.show()
            if asked := {"--json", "--jsonl"}.intersection(words):
                said = UsageError(
                    " ".join(getattr(error, "format_message", error.__str__)().split()),
                    hint=f"see `{program} --help`",
                )
                emit({"error": error_object(said)}, indent=2 if "--json" in asked else None)
            return int(error.exit_code)
        if os.environ.get("ACCRUE_DEBUG"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        note(f"{program}: {text}")
        note("  if this is not explained by the message, ACCRUE_DEBUG=1 shows where it came from")
        return 1
