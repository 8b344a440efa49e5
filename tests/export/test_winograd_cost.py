"""Which layers are rewritten, by their shapes alone."""

from __future__ import annotations

import pytest

from histo_export.winograd import TILES
from histo_export.winograd_cost import BATCH, STRIP, Choice, choose, direct_cost, strips, winograd_cost
from histo_export.winograd_layers import Layer


def layer(channels: int, filters: int, side: int, *, source: str = "x", name: str = "conv", pooled: str = "") -> Layer:
    pads = (1, 1, 1, 1)
    return Layer(name, source, "w", "b", channels, filters, side, side, pads, activated=f"{name}_relu", pooled=pooled)


def chain(*shapes: tuple[int, int, int]) -> list[Layer]:
    layers: list[Layer] = []
    for index, (channels, filters, side) in enumerate(shapes):
        source = layers[-1].activated if layers else "x"
        layers.append(layer(channels, filters, side, source=source, name=f"conv{index}"))
    return layers


# milliseconds a view, from the profile of onnxruntime 1.32 on two cores, batches of 8 views
MEASURED = [
    ((64, 64, 96), Choice(6, channels_last=True, strips=13), 1.39),
    ((64, 64, 96), Choice(4, channels_last=True, strips=16), 1.62),
    ((64, 128, 48), Choice(6, channels_last=True, strips=5), 0.78),
    ((128, 128, 48), Choice(6, channels_last=True, strips=6), 1.25),
    ((128, 128, 48), Choice(4, channels_last=True, strips=8), 1.38),
    ((128, 256, 24), Choice(6, channels_last=True), 0.57),
    ((256, 256, 24), Choice(6, channels_last=True), 1.20),
    ((256, 256, 24), Choice(4, channels_last=True, strips=2), 1.15),
    ((512, 512, 12), Choice(6, channels_last=False), 1.16),
    ((512, 512, 12), Choice(4, channels_last=False), 1.55),
    ((512, 512, 6), Choice(3, channels_last=False), 0.38),
    ((512, 512, 6), Choice(6, channels_last=False), 0.55),
]


@pytest.mark.parametrize(("shape", "choice", "milliseconds"), MEASURED)
def test_the_estimate_is_within_a_third_of_the_measurement(
    shape: tuple[int, int, int], choice: Choice, milliseconds: float
) -> None:
    pooled = "pool" if shape in ((64, 64, 96), (128, 128, 48)) else ""
    assert winograd_cost(layer(*shape, pooled=pooled), choice).total * 1e3 == pytest.approx(milliseconds, rel=0.33)


def test_deep_layers_are_rewritten_and_the_first_one_is_not() -> None:
    layers = chain((3, 64, 96), (64, 64, 96), (64, 256, 24), (256, 256, 24), (256, 512, 12), (512, 512, 12))
    assert set(choose(layers)) == {"conv1", "conv2", "conv3", "conv4", "conv5"}


@pytest.mark.parametrize("shape", [(64, 64, 96), (64, 128, 48), (128, 128, 48), (256, 256, 24), (512, 512, 12)])
def test_a_strip_fits_into_the_cache_unless_its_weights_are_what_costs(shape: tuple[int, int, int]) -> None:
    channels, filters, side = shape
    tiles, count = (side // 6) ** 2, strips(layer(*shape), 6)
    per_tile, weights = 4 * 64 * (channels + filters) * BATCH, 4 * 64 * channels * filters
    assert 1 <= count <= tiles
    assert per_tile * tiles / count <= 2 * max(STRIP, weights)
    assert count == 1 or per_tile * tiles / count >= weights


def test_vgg19_keeps_channels_last_while_a_row_of_tiles_is_long_and_views_last_below() -> None:
    side, channels, layers = 96, 3, []
    for filters, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for index in range(depth):
            source = (layers[-1].pooled or layers[-1].activated) if layers else "x"
            pooled = f"pool{side}" if index == depth - 1 else ""
            name = f"conv{side}_{index}"
            layers.append(layer(channels, filters, side, source=source, name=name, pooled=pooled))
            channels = filters
        side //= 2
    chosen = choose(layers)
    assert [item.name for item in layers if item.name not in chosen] == ["conv96_0"]
    by_side = {item.height: chosen[item.name] for item in layers if item.name in chosen}
    ways = {side: (choice.tile, choice.channels_last) for side, choice in by_side.items()}
    assert ways == {96: (6, True), 48: (6, True), 24: (6, True), 12: (6, False), 6: (3, False)}
    assert by_side[96].strips > by_side[48].strips > by_side[24].strips == 1


def test_what_is_chosen_beats_direct_convolution_by_a_tenth() -> None:
    layers = chain((64, 256, 24), (256, 256, 24), (256, 512, 12), (512, 512, 6))
    for name, choice in choose(layers).items():
        (chosen,) = (item for item in layers if item.name == name)
        assert winograd_cost(chosen, choice).total < 0.9 * direct_cost(chosen)


def test_strips_are_refused_where_the_views_come_last() -> None:
    with pytest.raises(ValueError, match="channels last"):
        Choice(6, channels_last=False, strips=2)


def test_thin_layers_are_not_worth_it() -> None:
    assert choose(chain((3, 8, 32), (8, 16, 32), (16, 16, 16))) == {}


def test_a_gain_that_entering_and_leaving_eat_up_is_left() -> None:
    """A layer that pays between two rewritten ones need not pay alone."""
    lone = layer(48, 64, 48)
    best = min(winograd_cost(lone, Choice(tile, last)).total for tile in TILES for last in (True, False))
    assert best < 0.9 * direct_cost(lone)
    assert choose([lone]) == {}
    assert "conv0" in choose(chain((48, 64, 48), (64, 64, 48)))
