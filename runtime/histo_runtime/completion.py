"""Shell completion where click can't know what a value may be: options that take words or files.

The completion itself is click's: `eval "$(_HISTO_INFER_COMPLETE=bash_source histo-infer)"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

Complete: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave it to the shell, which completes names of files."""
    return [CompletionItem(incomplete, type="file")]


def words_or_files(*words: str) -> Complete:
    """Complete one of these words, or where none begins like that a file."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(word) for word in words if word.startswith(incomplete)]
        return found or files(ctx, param, incomplete)

    return complete
