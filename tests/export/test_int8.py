"""The search for the best int8: what may be chosen is tried, the choice follows its rule, all of it goes on record."""

from __future__ import annotations

import json

import numpy as np
import pytest

from histo_export.calibration import METHODS
from histo_export.int8 import Candidate, choose, search, search_steps
from histo_export.patch_sets import PatchSet
from histo_export.sample import content_hashes, list_hash
from tests.export.test_quantize import run, two_branches
from tests.tiny import SIZE, tiny_card, tiny_core


def drawn(count: int, seed: int, name: str) -> PatchSet:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, SIZE, SIZE, 3)) * rng.uniform(0.1, 1, (count, 1, 1, 3))
    whole = patches.astype(np.uint8)
    return PatchSet(whole, None, name, list_hash(content_hashes(whole)))


def candidate(method: str, excluded: str, changed: float, mean: float) -> Candidate:
    return Candidate(method, excluded, mean, 10 * mean, changed)


THROUGHOUT = [candidate("minmax", "nothing", 0.02, 0.004), candidate("entropy", "nothing", 0.004, 0.003)]
FIRST = [candidate("minmax", "the first convolution", 0.0, 0.001)]


def test_int8_throughout_is_chosen_while_its_labels_hold() -> None:
    chosen, why = choose([*FIRST, *THROUGHOUT])
    assert (chosen.method, chosen.excluded) == ("entropy", "nothing")
    assert "labels hold" in why


def test_the_first_convolution_stays_float32_where_labels_would_not_hold() -> None:
    chosen, why = choose([THROUGHOUT[0], *FIRST])
    assert chosen.excluded == "the first convolution"
    assert "2.0%" in why


@pytest.mark.parametrize(
    ("comfortable", "excluded"), [(1.0, ["nothing"]), (-1.0, ["nothing", "the first convolution"])]
)
def test_what_may_be_chosen_is_tried_and_the_choice_is_on_record(
    comfortable: float, excluded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where labels hold in int8 throughout, nothing else is tried; where they never do, everything is."""
    monkeypatch.setattr("histo_export.int8._COMFORTABLE", comfortable)
    calibration, selection = drawn(40, 1, "one"), drawn(30, 2, "other")
    card, core = tiny_card(1, temperature=0.5, threshold=0.9), two_branches()
    counts: list[int] = []
    found = search(core, card, calibration, selection, "vnni", counts.append)
    assert sum(counts) == search_steps(core, calibration, selection)
    record = json.loads(json.dumps(found.record, allow_nan=False))
    tried = record["tried"]
    assert [(one["method"], one["excluded"]) for one in tried] == [
        (method, kept) for kept in excluded for method in METHODS
    ]
    assert (record["patches"], record["sha256"], record["on"]) == (40, calibration.sha256, "one")
    assert record["selected_on"] == {"patches": 30, "sha256": selection.sha256, "on": "other"}
    own, exact = (
        1 / (1 + np.exp(-run(model, selection.patches / np.float32(255))[:, 0].astype(float) / 0.5))
        for model in (found.core, core)
    )
    (chosen,) = (one for one in tried if (one["method"], one["excluded"]) == (record["method"], record["excluded"]))
    assert chosen["mean"] == pytest.approx(np.abs(own - exact).mean(), abs=1e-5)
    assert chosen["largest"] == pytest.approx(np.abs(own - exact).max(), abs=1e-5)
    assert chosen["changed"] == pytest.approx(((own >= 0.9) != (exact >= 0.9)).mean(), abs=0.04)


def test_a_networks_only_convolution_is_never_left_out() -> None:
    """It would answer best, and be float32 throughout under the name of int8."""
    found = search(tiny_core(1), tiny_card(1, threshold=0.69), drawn(40, 1, "one"), drawn(30, 2, "other"), "vnni")
    assert {one["excluded"] for one in found.record["tried"]} == {"nothing"}
    assert sum(node.op_type == "QuantizeLinear" for node in found.core.graph.node) > 0


def test_the_same_patches_give_the_same_model() -> None:
    sets = drawn(20, 1, "one"), drawn(20, 2, "other")
    one, two = (search(tiny_core(3), tiny_card(3), *sets, "arm") for _ in range(2))
    assert one.core == two.core
    assert one.record == two.record
