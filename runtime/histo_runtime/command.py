"""How each of the commands fails and speaks: one line on stderr, exit codes as in the contract, no traceback."""

from __future__ import annotations

import sys
from typing import Any

import click

from histo_runtime import __version__
from histo_runtime.errors import HistoError

EXIT_FAILED = 1
EXIT_SOME_PATCHES_FAILED = 3
EXIT_INTERRUPTED = 130


class HistoCommand(click.Command):
    """A click command with `--version`, one-line errors and the contract's exit codes.

    0 done, 1 could not be done, 2 wrong usage (click's own), 130 interrupted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)
        self.params.append(_version_option())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what goes wrong into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except HistoError as error:
            self._fail(str(error), EXIT_FAILED)
        except KeyboardInterrupt as error:
            self._fail(str(error) or "interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe is gone
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._fail(f"{where}{error.strerror or error}", EXIT_FAILED)
        except MemoryError:
            self._fail("out of memory: choose a smaller --batch-size", EXIT_FAILED)

    def _fail(self, message: str, code: int) -> None:
        one_line = " ".join(message.split())
        click.echo(f"{self.name}: {one_line}", err=True)
        sys.exit(code)


def say(message: str) -> None:
    """Print a message for the person at the terminal; results go to stdout, messages never do."""
    click.echo(message, err=True)


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
