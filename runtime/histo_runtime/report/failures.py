"""The patches that could not be scored, by reason."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from histo_runtime.report.finished import FinishedRun
from histo_runtime.report.section import Section

_REASONS = 20
_NAMED = 10
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Failure:
    """Patches that failed alike: the first one's reason, the names of the first, how many there are."""

    reason: str
    alike: bool  # whether the others' reasons differ in their numbers
    names: tuple[str, ...]
    count: int


def failures(run: FinishedRun) -> Section:
    """The section on failed patches; it says so when there are none."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, reason in run.scored.errors.items():
        groups[_NUMBER.sub("0", reason)].append(position)
    ordered = sorted(groups.values(), key=len, reverse=True)
    shown = [
        Failure(
            reason=run.scored.errors[positions[0]],
            alike=len({run.scored.errors[position] for position in positions}) > 1,
            names=tuple(run.scored.names[position] for position in positions[:_NAMED]),
            count=len(positions),
        )
        for positions in ordered[:_REASONS]
    ]
    content = {
        "failures": shown,
        "count": len(run.scored.errors),
        "total": len(run.scored),
        "more_reasons": max(0, len(ordered) - _REASONS),
        "table": run.table.name,
    }
    return Section("failures", "Patches that failed", "failures.html.j2", content)
