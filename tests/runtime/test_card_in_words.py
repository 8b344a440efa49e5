"""Whatever a card may say can be told in plain words: a new merge, scaling or precision needs its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo_runtime.card import ACTIVATIONS, PRECISIONS, SCALINGS, ModelCard
from histo_runtime.golden import TOLERANCE
from histo_runtime.read_aloud import read_aloud
from histo_runtime.report.finished import Record
from histo_runtime.report.overview import about_run
from histo_runtime.views import MERGES, POLICIES

CHOICES = {"merge": MERGES, "scaling": SCALINGS, "precision": PRECISIONS, "activation": ACTIVATIONS}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in CHOICES.items() for value in values])
def test_every_choice_is_told_by_the_doctor_and_by_the_report(key: str, value: str) -> None:
    card = ModelCard(name="m", size=96, policy="flips", views=POLICIES["flips"]).replace(**{key: value})
    assert all(text for _, text in read_aloud(card))
    assert about_run(Record(Path("run.json"), card, {}), "predictions.csv").content["sentences"]
    assert card.precision in TOLERANCE
