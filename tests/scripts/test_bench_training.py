"""What the table of scripts/bench_training.py says of its rounds."""

from __future__ import annotations

from bench_training import Round, table_row


def test_ratios_are_medians_of_the_rounds_with_their_extremes() -> None:
    """A round in which the machine was slow for both moves the speeds, and no ratio."""
    rounds = [
        Round(48, ours=90, fit=100, ours_processor=11, fit_processor=10),
        Round(48, ours=10, fit=10, ours_processor=40, fit_processor=40),
        Round(48, ours=95, fit=100, ours_processor=10.5, fit_processor=10),
    ]
    assert table_row(48, rounds) == "| 48 | 90.0 | 100.0 | 0.950 (0.900-1.000) | 1.050 (1.000-1.100) |"
