"""What the ways of working of `histo-infer` say in the same words."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histo_runtime.command import say
from histo_runtime.default_model import is_bundled

if TYPE_CHECKING:
    from histo_runtime.card import ModelCard
    from histo_runtime.request import Request

_FAILURES_SHOWN = 5


def announce(request: Request, what: str, where: str, card: ModelCard, threshold: float) -> None:
    """Say at the start of a run what is scored, where, and the model in short; histo-doctor says all of it.

    Args:
        request: of the run.
        what: as "16 patches".
        where: as "cpu" or "2 actors of 1 thread".
        card, threshold: of the model, as it is used.
    """
    model, views = request.chosen_model, len(card.views)
    origin = " (comes with histo-edge, for research only)" if is_bundled(model) else ""
    each = {"none": "1 view", "adaptive": f"up to {views} views"}.get(request.tta, f"{views} views")
    cut = "" if card.activation == "softmax" else f", threshold {threshold:.4g}"
    request.inform(f"{what} with {Path(model).name}{origin} on {where}: {card.precision}, {each} each{cut}")


def left_out(others: int) -> str:
    """Say how many files were no inputs."""
    which = (
        "1 file is no image by its name and is"
        if others == 1
        else f"{others} files are no images by their names and are"
    )
    return f"{which} left out"


def named_twice(count: int) -> str:
    """Say how many patches have another of their name, which a reader of the results has to know."""
    return f"{patches(count)} {'is' if count == 1 else 'are'} named twice, and scored and counted twice"


def holds_none(argument: str) -> str:
    """Say that one of several arguments is without patches, which a reader of the results has to know."""
    return f"{argument}: holds no images, the other inputs are scored"


def another(settings: Sequence[str]) -> str:
    """Say in what an unfinished run differs: "another device, other inputs"."""
    return ", ".join(f"{'other' if name.endswith('s') else 'another'} {name}" for name in settings)


def patches(count: int) -> str:
    """Say how many patches."""
    return "1 patch" if count == 1 else f"{count} patches"


def same_command() -> str:
    """Return the command of this process, to be given again in a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def say_failures(failures: Sequence[tuple[str, str]], count: int, where: str = "the error column") -> None:
    """Name the first of `count` failures, a pair of name and reason each, and where the others stand."""
    for name, reason in failures[:_FAILURES_SHOWN]:
        say(f"failed: {name} {reason}")
    if count > _FAILURES_SHOWN:
        say(f"... and {count - _FAILURES_SHOWN} more, see {where}")
