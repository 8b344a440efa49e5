"""How each of the commands fails and speaks: one line on stderr, exit codes as in the contract, no traceback."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from histo_runtime import __version__
from histo_runtime.errors import HistoError, UsageError, reason_of
from histo_runtime.program import EXIT_INTERRUPTED, working

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_PATCHES_FAILED = 3
_TERM_WIDTH = 28  # of the column of options in --help; longer ones have a line of their own
_COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "red", "warning": "yellow", "failed": "red"}


class HistoCommand(click.Command):
    """A click command with `--version`, one-line errors and the contract's exit codes.

    0 done, 1 could not be done, 2 wrong usage (click's own), 130 interrupted.

    Args:
        sections: heading in `--help` -> the options below it, in order, by their long names; options that stand under
            none come last, under "General".
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)
        self.sections = sections or {}
        self.params.append(_version_option())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of `--help` below their headings, all in one column."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        left = {option.opts[-1]: record for option in options if (record := option.get_help_record(ctx))}
        width = min(_TERM_WIDTH, max(len(term) for term, _ in left.values()))
        sections = {heading: [left.pop(name) for name in names] for heading, names in self.sections.items()}
        sections["General" if sections else "Options"] = [*left.values()]
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the whole command; what goes wrong outside `invoke` (a full disk under --help) is one line too."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            self._fail(error.strerror or str(error), EXIT_FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what goes wrong into a line and an exit code."""
        try:
            with working():
                return super().invoke(ctx)
        except UsageError as error:
            self._fail(str(error), EXIT_USAGE)
        except HistoError as error:
            self._fail(str(error), EXIT_FAILED)
        except KeyboardInterrupt as error:
            self._fail(str(error) or "interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe is gone
        except OSError as error:
            self._fail(_reason(error), EXIT_FAILED)
        except MemoryError:
            self._fail("out of memory: give it fewer at once (histo-infer: --batch-size)", EXIT_FAILED)

    def _fail(self, message: str, code: int) -> None:
        _say(click.style(f"{self.name}:", fg="red") + printable(f" {' '.join(message.split())}"))
        _settle_stdout()
        sys.exit(code)


def _reason(error: OSError) -> str:
    """Say what the system said, and of which file; of a working folder that is gone it names none."""
    if error.filename:
        return f"{error.filename}: {reason_of(error)}"
    try:
        Path.cwd()
    except OSError:
        return "the working folder is gone: change to one that is there"
    return reason_of(error)


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which click takes for one of every range, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Turn what was typed into a number of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def say(message: str) -> None:
    """Print a message for the person at the terminal; results go to stdout, messages never do.

    A stderr that is closed, as a daemon's may be, does not end the work.
    """
    head, colon, rest = message.partition(":")
    _say(coloured(head) + printable(colon + rest) if colon and head in _COLOURS else printable(message))


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        echo(text, err=True)


def echo(text: str, *, err: bool = False) -> None:
    """Print text that may be styled: plain in a file or a pipe (click's own), and where no colours are wanted.

    That is said by NO_COLOR (no-color.org: any value but an empty one) or a terminal that can't (TERM=dumb).
    """
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    click.echo(text, err=err, color=False if plain else None)


def coloured(word: str) -> str:
    """Give a word that says how something went its colour: PASS, WARN, FAIL, warning, failed."""
    return click.style(word, fg=_COLOURS[word])


def _settle_stdout() -> None:
    """Let go of what a full disk did not take: flushed again at the end it would make the exit code Python's 120."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)


def printable(text: str) -> str:
    """Escape control characters: names of files and cards must not be able to move the cursor or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def _version_option() -> click.Option:
    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"{ctx.command.name} (histo-edge) {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Show the version.",
    )
