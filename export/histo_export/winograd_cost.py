"""What a convolution costs, directly and by Winograd's filtering, and which layers are worth rewriting.

Three things take time: multiplications, bytes that pass between memory or cache and processor, and rows that Gather
copies one by one. The first two are counted from the shapes, step by step, as `winograd_graph` builds them.
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
BYTES = 26e9  # a second, from memory; products with the small matrices of the transforms cost no more than their bytes
CACHED_BYTES = 55e9  # a second, in steps whose values stay in the last cache
CACHED = 20e6  # bytes of values up to which they do
# Bytes of a strip's values: batches four times as large as BATCH find them in the cache too.
STRIP = 5e6
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
    """How a layer is rewritten.

    Attributes:
        tile: m, for tiles of m x m outputs.
        channels_last: the layout, with channels or with views last.
        strips: parts in which the tiles are computed one after the other; several with channels last only.
    """

    tile: int
    channels_last: bool
    strips: int = 1

    def __post_init__(self) -> None:
        if self.strips > 1 and not self.channels_last:
            raise ValueError("strips are for the layout with channels last")


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


def direct_cost(layer: Layer) -> float:
    """Estimate the seconds of the direct convolution of one view."""
    return TAPS**2 * layer.channels * layer.filters * layer.output_height * layer.output_width / MULTIPLICATIONS


def winograd_cost(layer: Layer, choice: Choice) -> Cost:
    """Estimate the seconds of the rewritten layer for one view, by step."""
    tile = choice.tile
    values = (tile + TAPS - 1) ** 2
    tiles = -(-layer.output_height // tile) * -(-layer.output_width // tile)
    before, after, half, outputs = (
        size * tiles
        for size in (
            values * layer.channels,
            values * layer.filters,
            (tile + TAPS - 1) * tile * layer.filters,
            tile**2 * layer.filters,
        )
    )
    weights = values * layer.channels * layer.filters
    rows = values * tiles * (1 if choice.channels_last else layer.channels)
    pooled = layer.pools_inside(tile)
    finished = outputs // 4 if pooled else outputs
    cached = (before + after) * BATCH * _FLOAT / choice.strips <= CACHED
    return Cost(
        gather=_seconds(moved=layer.channels * layer.height * layer.width + before, cached=cached, rows=rows),
        input=_seconds(moved=4 * before, cached=cached),
        products=_seconds(multiplied=weights * tiles, moved=before + after, cached=cached)
        + _seconds(
            moved=weights * choice.strips / BATCH * (_REPACKING if choice.channels_last else 1),
            cached=choice.strips > 1,
        ),
        output=_seconds(moved=after + 2 * half + outputs, cached=cached),
        finish=_seconds(moved=4 * finished + (2 * outputs + finished if pooled else 0), cached=cached)
        + _seconds(moved=2 * finished if choice.strips > 1 else 0),
    )


def strips(layer: Layer, tile: int) -> int:
    """Return the strips in which a layer's tiles are computed with channels last.

    So many that a strip's values are `STRIP` bytes, but no fewer than those of the weights, which are read for each.
    """
    values = (tile + TAPS - 1) ** 2
    tiles = -(-layer.output_height // tile) * -(-layer.output_width // tile)
    size = values * tiles * (layer.channels + layer.filters) * BATCH * _FLOAT
    weights = values * layer.channels * layer.filters * _FLOAT
    return max(1, min(tiles, int(size // max(STRIP, weights))))


def choose(layers: Sequence[Layer]) -> dict[str, Choice]:
    """Return how each layer is rewritten that is worth it, by the layer's name.

    Layers that hand their result to the next rewritten one stay in its layout; entering, changing and leaving it
    costs copies. So the choice is made for a chain of layers at once: the cheapest way through it.
    """
    chosen: dict[str, Choice] = {}
    for chain in _chains(layers):
        chosen.update(_cheapest(chain))
    return chosen


def _choices(layer: Layer) -> list[Choice]:
    """Every way to rewrite a layer."""
    return [choice for tile in TILES for choice in (Choice(tile, False), Choice(tile, True, strips(layer, tile)))]


def _seconds(*, multiplied: float = 0, moved: float = 0, cached: bool = False, rows: float = 0) -> float:
    """Seconds of a view for so many multiplications, values read or written, and rows copied once a batch."""
    speed = CACHED_BYTES if cached else BYTES
    return multiplied / MULTIPLICATIONS + moved * _FLOAT / speed + rows * GATHERED_ROW / BATCH


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
        choices = [choice for choice in _choices(layer) if winograd_cost(layer, choice).total < limit]
        ways = [min((way.extended(layer, choice) for way in ways), key=_so_far) for choice in (None, *choices)]
    return min(ways, key=lambda way: way.ended).choices


def _so_far(way: _Way) -> float:
    return way.seconds
