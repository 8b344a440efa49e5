"""What a convolution costs, directly and by Winograd's filtering, and which layers are worth rewriting.

Three things take time: multiplications, bytes that pass between memory and processor, and rows that Gather copies
one by one. The first two are counted from the shapes, step by step, as `winograd_graph` builds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histo_export.winograd import TAPS, TILES
from histo_export.winograd_layers import Layer

# Measured once, with onnxruntime 1.32 and its profiler on two cores of an AMD EPYC 9004 (AVX-512), every layer of
# VGG19 at 96 pixels, tiles 2 to 6, batches of 1 to 32. Other CPUs are faster or slower as a whole; a choice depends
# on the ratios alone, above all on 4 multiplications in the time of a byte.
MULTIPLICATIONS = 107e9  # a second, in large matrix products and in direct convolutions
BYTES = 26e9  # a second, in steps whose data lies in the last cache or beyond
GATHERED_ROW = 4e-9  # seconds for each row, whatever it holds
# Views of a batch: one patch with its eight views, the smallest batch at work. Weights are read once a batch.
BATCH = 8
# A layer is rewritten when it saves a tenth: the estimate is not better than that.
_WORTH_IT = 0.9
_REPACKING = 2  # weights on the right of a batched product are repacked, which costs about one more reading
_COPIES = 6  # reads and writes of an activation that enters the layout or leaves it: reorder, pad, turn
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Choice:
    """How a layer is rewritten: tiles of `tile` x `tile` outputs, in the layout with channels or with views last."""

    tile: int
    channels_last: bool


@dataclass(frozen=True)
class Cost:
    """Seconds for one view of a batch, by step."""

    gather: float = 0.0
    input: float = 0.0
    products: float = 0.0
    output: float = 0.0
    finish: float = 0.0

    @property
    def total(self) -> float:
        """Seconds for one view."""
        return self.gather + self.input + self.products + self.output + self.finish


_CHOICES = tuple(Choice(tile, channels_last) for tile in TILES for channels_last in (False, True))


def direct_cost(layer: Layer) -> float:
    """Estimate the seconds of the direct convolution of one view."""
    return TAPS**2 * layer.channels * layer.filters * layer.output_height * layer.output_width / MULTIPLICATIONS


def winograd_cost(layer: Layer, choice: Choice) -> Cost:
    """Estimate the seconds of the rewritten layer for one view, by step."""
    tile = choice.tile
    values = (tile + TAPS - 1) ** 2
    tiles = -(-layer.output_height // tile) * -(-layer.output_width // tile)
    before, after, outputs = (
        size * tiles for size in (values * layer.channels, values * layer.filters, tile**2 * layer.filters)
    )
    weights = values * layer.channels * layer.filters
    rows = values * tiles * (1 if choice.channels_last else layer.channels)
    pooled = layer.pools_inside(tile)
    finished = outputs // 4 if pooled else outputs
    return Cost(
        gather=_seconds(moved=layer.channels * layer.height * layer.width + before, rows=rows),
        input=_seconds(multiplied=values * before, moved=2 * before),
        products=_seconds(
            multiplied=weights * tiles,
            moved=before + after + weights / BATCH * (_REPACKING if choice.channels_last else 1),
        ),
        output=_seconds(multiplied=tile**2 * after, moved=after + outputs),
        finish=_seconds(moved=4 * finished + (outputs + finished if pooled else 0)),
    )


def choose(layers: Sequence[Layer]) -> dict[str, Choice]:
    """Return how each layer is rewritten that is worth it, by the layer's name.

    Layers that hand their result to the next rewritten one stay in its layout; entering, changing and leaving it
    costs copies. So the choice is made for a chain of layers at once: the cheapest way through it.
    """
    chosen: dict[str, Choice] = {}
    for chain in _chains(layers):
        chosen.update(_cheapest(chain))
    return chosen


def _seconds(*, multiplied: float = 0, moved: float = 0, rows: float = 0) -> float:
    """Seconds of a view for so many multiplications, values read or written, and rows copied once a batch."""
    return multiplied / MULTIPLICATIONS + moved * _FLOAT / BYTES + rows * GATHERED_ROW / BATCH


def _chains(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Group layers that follow one another directly."""
    chains: list[list[Layer]] = []
    for layer in layers:
        last = chains[-1][-1] if chains else None
        if last and layer.source in (last.activated, last.pooled):
            chains[-1].append(layer)
        else:
            chains.append([layer])
    return chains


@dataclass(frozen=True)
class _Way:
    """How the layers of a chain up to `layer` are computed; `last` is how that one is, None for directly."""

    seconds: float
    choices: Mapping[str, Choice]
    layer: Layer | None = None
    last: Choice | None = None

    def extended(self, layer: Layer, choice: Choice | None) -> _Way:
        if not choice:
            return _Way(self.ended + direct_cost(layer), self.choices, layer)
        seconds = self._handing_over(layer, choice) + winograd_cost(layer, choice).total
        return _Way(seconds, {**self.choices, layer.name: choice}, layer, choice)

    @property
    def ended(self) -> float:
        """Seconds when the pixels are put back in their order."""
        if not self.layer or not self.last:
            return self.seconds
        values = self.layer.filters * self.layer.result_area(self.last.tile)
        rows = values // (self.layer.filters if self.last.channels_last else 1)
        return self.seconds + _seconds(moved=_COPIES * values, rows=rows)

    def _handing_over(self, layer: Layer, choice: Choice) -> float:
        """Seconds until the next layer has its input where it reads it."""
        values = layer.channels * layer.height * layer.width
        if self.layer and self.last and layer.source == self.layer.result(self.last.tile):
            if self.last.channels_last == choice.channels_last:
                return self.seconds
            if self.last.channels_last:
                return self.seconds + _seconds(moved=2 * values)
        return self.ended + _seconds(moved=_COPIES * values)


def _cheapest(chain: Sequence[Layer]) -> Mapping[str, Choice]:
    """Go through a chain keeping, for each way to compute the last layer, the cheapest way there."""
    ways = [_Way(0.0, {})]
    for layer in chain:
        limit = _WORTH_IT * direct_cost(layer)
        choices = [choice for choice in _CHOICES if winograd_cost(layer, choice).total < limit]
        ways = [min((way.extended(layer, choice) for way in ways), key=_so_far) for choice in (None, *choices)]
    return min(ways, key=lambda way: way.ended).choices


def _so_far(way: _Way) -> float:
    return way.seconds
