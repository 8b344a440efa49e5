"""What of a training's card an export keeps, and what it says of that."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from histo_export.keras_file import KerasFile
from histo_export.network import Network
from histo_export.new_card import ExportOptions, make_card
from histo_runtime.card import ModelCard
from histo_runtime.views import POLICIES

# They name its version in the card, and don't import it.
pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="the export room needs TensorFlow")

TUNED = ModelCard(
    name="mine",
    size=32,
    policy="d4",
    views=POLICIES["d4"],
    threshold=0.3,
    threshold_rule="youden on 90 validation patches, views d4, merge mean",
    temperature=1.5,
)


def exported(card: ModelCard | None, options: ExportOptions) -> ModelCard:
    file = KerasFile(Path("trained.h5"), sha256="0" * 64, keras_version="3.9.0", config=None, card=card)
    return make_card(file, Network(None, 32, 1, "sigmoid"), options, "unit")


@pytest.mark.parametrize(
    ("options", "under"),
    [
        (ExportOptions(views="none"), "views none, merge mean"),
        (ExportOptions(merge="max"), "views d4, merge max"),
        (ExportOptions(views="kaggle"), "views kaggle, merge max"),
    ],
)
def test_a_threshold_that_was_tuned_for_other_views_is_kept_and_warned_of_in_one_line(
    options: ExportOptions, under: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = exported(TUNED, options)
    assert (card.threshold, card.threshold_rule, card.temperature) == (0.3, TUNED.threshold_rule, 1.5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "warning: trained.h5: its threshold 0.3 was chosen for views d4, merge mean" in line
    assert f"is kept for {under}:" in line
    assert "--threshold" in line


@pytest.mark.parametrize(
    ("card", "options"),
    [
        (TUNED, ExportOptions()),
        (TUNED, ExportOptions(views="none", threshold=0.7)),
        (TUNED.replace(threshold=0.5, threshold_rule="default"), ExportOptions(views="none")),
        (None, ExportOptions(views="none", classes=("a", "b"))),
    ],
    ids=["of these views", "given at export", "not tuned", "no card"],
)
def test_no_other_threshold_is_warned_of(
    card: ModelCard | None, options: ExportOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(card, options)
    assert capsys.readouterr().err == ""
