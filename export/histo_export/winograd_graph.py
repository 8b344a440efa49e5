"""Rewrite 3x3 convolutions of a core as Winograd's filtering, in MatMul, Gather, Add, Relu and ReduceMax.

Between rewritten layers pixels may lie in any order: `Packed` says in which, and no layer has to put them back. A layer
leaves the m * m pixels of its tiles as m * m blocks, the order in which one matrix product makes them, and the next
layer's Gather, which cuts overlapping tiles anyway, looks them up there. A block of zeros behind them is the padding.
With n = m + 2, C channels and C' filters a layer is

    Gather                      [n*n, tiles, N, C]      the tiles of the input, overlapping by two pixels
    MatMul by B^T, twice        [n, n, tiles * N * C]   along the rows of a tile, then along its columns
    MatMul by the weights       [n*n, tiles * N, C']    n * n products
    MatMul by A^T, twice        [m + 1, m, tiles * N * C']
    ReduceMax, Add, Relu                                pooling comes first: it commutes with bias and ReLU

That is the layout with channels last. Where so many values would not stay in the cache, the tiles are computed in
strips, one after the other, and a Concat puts their results together. The weights are the right side of a batched
product, which onnxruntime repacks on every run; where tiles * N is small that costs more than the product. There the
views come last, `[n*n, C, tiles, N]`, and the weights stand on the left; Gather then copies N numbers at a time instead
of N * C.

Weights are stored as they are; their transform, a MatMul of constants, is folded by the runtime when it opens the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from histo_export.graph import PREFIX, GraphBuilder
from histo_export.winograd import transforms
from histo_export.winograd_cost import Choice
from histo_export.winograd_layers import Layer
from histo_export.winograd_tiles import Packed, TileGrid


def rewrite(core: onnx.ModelProto, layers: Sequence[Layer], choices: Mapping[str, Choice]) -> onnx.ModelProto:
    """Return a copy of the core in which the layers named in `choices` are computed by Winograd's filtering.

    Args:
        core: any graph with static shapes but for the batch, which comes first.
        layers: of this core, from `find_layers`.
        choices: name of a layer -> how it is computed.
    """
    writer = _Rewriter(core.graph, [layer for layer in layers if layer.name in choices], choices)
    body = helper.make_graph(writer.nodes, core.graph.name, core.graph.input, core.graph.output, writer.initializers)
    rewritten = helper.make_model(body, opset_imports=core.opset_import, ir_version=core.ir_version)
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten


class _Rewriter:
    """Goes through the graph once; a packed activation is unpacked when a node that stays asks for it."""

    def __init__(self, graph: onnx.GraphProto, layers: Sequence[Layer], choices: Mapping[str, Choice]) -> None:
        self._graph = _SharingBuilder()
        self._weights = {item.name: item for item in graph.initializer}
        self._packed: dict[str, Packed] = {}  # results of rewritten layers
        self._sources: dict[tuple[str, bool], Packed] = {}
        self._unpacked: set[str] = set()
        heads = {layer.name: layer for layer in layers}
        absorbed = {name for layer in layers for name in (layer.activated, layer.result(choices[layer.name].tile))}
        for node in graph.node:
            layer = heads.get(node.output[0])
            if layer:
                choice = choices[layer.name]
                self._packed[layer.result(choice.tile)] = self._convolve(layer, choice)
            elif node.output[0] not in absorbed:
                for name in node.input:
                    self._unpack(name)
                self._graph.nodes.append(node)
        for item in graph.output:
            self._unpack(item.name)
        self.nodes = self._graph.nodes
        used = {name for node in self.nodes for name in node.input}
        self.initializers = [item for item in graph.initializer if item.name in used] + self._graph.initializers

    def _source(self, layer: Layer, *, channels_last: bool) -> Packed:
        """Return what a layer reads in the layout that it wants; several may read the same."""
        key = (layer.source, channels_last)
        if key not in self._sources:
            packed = self._packed.get(layer.source)
            if packed is None or packed.channels_last < channels_last:
                self._unpack(layer.source)
                pack = self._pack_channels_last if channels_last else self._pack_views_last
                self._sources[key] = pack(layer)
            else:
                self._sources[key] = packed if packed.channels_last == channels_last else self._turn(packed)
        return self._sources[key]

    def _pack_channels_last(self, layer: Layer) -> Packed:
        """`[N, C, H, W]` -> `[H * W + 1, N * C]`, a pixel of zeros behind the others."""
        graph, name, area = self._graph, layer.source, layer.height * layer.width
        # onnxruntime makes one step of this transpose and of the reordering that ends its own convolutions.
        last = graph.add("Transpose", [name], f"{name}/channels_last/turned", perm=[0, 2, 3, 1])
        flat = graph.add("Reshape", [last, graph.integers(-1, area, layer.channels)], f"{name}/channels_last/flat")
        pixels = graph.add("Transpose", [flat], f"{name}/channels_last/by_pixel", perm=[1, 0, 2])
        rows = graph.add("Reshape", [pixels, graph.integers(area, -1)], f"{name}/channels_last/rows")
        padded = graph.add("Pad", [rows, graph.integers(0, 0, 1, 0)], f"{name}/channels_last/packed")
        order = np.arange(area).reshape(layer.height, layer.width)
        return Packed(padded, layer.channels, order, zero=area, rows=area + 1)

    def _pack_views_last(self, layer: Layer) -> Packed:
        """`[N, C, H, W]` -> `[C * (H * W + 1), N]`, a zero behind the pixels of each channel."""
        graph, name, area = self._graph, layer.source, layer.height * layer.width
        flat = graph.add("Reshape", [name, graph.integers(-1, layer.channels, area)], f"{name}/views_last/flat")
        padded = graph.add("Pad", [flat, graph.integers(0, 0, 0, 0, 0, 1)], f"{name}/views_last/padded")
        rows = layer.channels * (area + 1)
        views = graph.add("Reshape", [padded, graph.integers(-1, rows)], f"{name}/views_last/by_view")
        packed = graph.add("Transpose", [views], f"{name}/views_last/packed", perm=[1, 0])
        order = np.arange(area).reshape(layer.height, layer.width)
        return Packed(packed, layer.channels, order, zero=area, rows=rows, step=area + 1)

    def _turn(self, packed: Packed) -> Packed:
        """Channels last -> views last: `[rows, N * C]` -> `[rows * C, N]`."""
        graph, channels = self._graph, packed.channels
        split = graph.add("Reshape", [packed.name, graph.integers(packed.rows, -1, channels)], f"{packed.name}/split")
        turned = graph.add("Transpose", [split], f"{packed.name}/turned", perm=[0, 2, 1])
        rows = packed.rows * channels
        flat = graph.add("Reshape", [turned, graph.integers(rows, -1)], f"{packed.name}/views_last")
        return Packed(flat, channels, packed.pixels * channels, zero=packed.zero * channels, rows=rows, step=1)

    def _unpack(self, name: str) -> None:
        """Give the tensor `name` its usual layout `[N, C, H, W]`, once, if it is packed."""
        packed = self._packed.get(name)
        if packed is None or name in self._unpacked:
            return
        self._unpacked.add(name)
        graph, (height, width) = self._graph, packed.pixels.shape
        order = graph.constant(f"{name}/unpacked/order", packed.rows_of_channels().reshape(-1).astype(np.int32))
        views = graph.add("Gather", [packed.name, order], f"{name}/unpacked/ordered", axis=0)
        if packed.channels_last:
            views = graph.add(
                "Reshape", [views, graph.integers(height * width, -1, packed.channels)], f"{name}/unpacked/split"
            )
        perm = [1, 2, 0] if packed.channels_last else [1, 0]
        views = graph.add("Transpose", [views], f"{name}/unpacked/by_view", perm=perm)
        graph.add_named("Reshape", [views, graph.integers(-1, packed.channels, height, width)], name)

    def _convolve(self, layer: Layer, choice: Choice) -> Packed:
        source = self._source(layer, channels_last=choice.channels_last)
        grid = TileGrid(layer, choice.tile, choice.strips)
        rows = grid.input_rows(source).astype(np.int32)
        weights = self._weight_values(layer, choice)
        strips = []
        for strip in grid.strips:
            name = f"{layer.name}/{strip.start}"
            chosen = self._tile_rows(name, np.ascontiguousarray(rows[:, strip]), source)
            tiles = self._graph.add("Gather", [source.name, chosen], f"{name}/tiles", axis=0)
            products = self._products(name, tiles, weights, layer, choice)
            strips.append(self._finish(name, products, layer, grid, strip, channels_last=choice.channels_last))
        packed = strips[0] if len(strips) == 1 else self._graph.add("Concat", strips, f"{layer.name}/packed", axis=0)
        return grid.result(packed, channels_last=choice.channels_last)

    def _tile_rows(self, name: str, rows: np.ndarray, source: Packed) -> str:
        """The rows that Gather reads, `[n*n, tiles]` or `[n*n, C, tiles]`; the runtime folds the sum over channels."""
        graph = self._graph
        if source.channels_last:
            return graph.constant(f"{name}/rows", rows)
        steps = (np.arange(source.channels) * source.step)[:, None].astype(np.int32)
        first = graph.constant(f"{name}/rows", rows[:, None])
        return graph.add("Add", [first, graph.constant(f"{name}/channels", steps)], f"{name}/tile_rows")

    def _products(self, name: str, tiles: str, weights: str, layer: Layer, choice: Choice) -> str:
        """Input transform and products with the weights, `[n*n, ...]`."""
        graph, matrices = self._graph, transforms(choice.tile)
        before = self._both_ways(f"{name}/input", tiles, f"{choice.tile}/input", matrices.input)
        sizes = (-1, layer.channels) if choice.channels_last else (layer.channels, -1)
        split = graph.add("Reshape", [before, graph.integers(matrices.reach**2, *sizes)], f"{name}/input/split")
        factors = [split, weights] if choice.channels_last else [weights, split]
        return graph.add("MatMul", factors, f"{name}/products")

    def _both_ways(self, name: str, tiles: str, key: str, matrix: np.ndarray, zero_rows: int = 0) -> str:
        """Multiply tiles `[k * k, ...]` by a matrix `[r, k]` along their rows, then along their columns.

        The result has r + `zero_rows` rows of r pixels. One product with the Kronecker product of the matrix with
        itself would do the same with four times the multiplications (k = 8).
        """
        graph, side = self._graph, matrix.shape[1]
        split = graph.add("Reshape", [tiles, graph.integers(side, side, -1)], f"{name}/rows")
        half = graph.add("MatMul", [graph.matrix(key, matrix), split], f"{name}/half")
        flat = graph.add("Reshape", [half, graph.integers(side, -1)], f"{name}/columns")
        if zero_rows:
            key, matrix = f"{key}/zeros{zero_rows}", np.pad(matrix, ((0, zero_rows), (0, 0)))
        return graph.add("MatMul", [graph.matrix(key, matrix), flat], f"{name}/done")

    def _weight_values(self, layer: Layer, choice: Choice) -> str:
        """The transformed weights, `[n*n, C, C']` or `[n*n, C', C]`, as constant nodes."""
        graph, name, matrices = self._graph, layer.name, transforms(choice.tile)
        weight = numpy_helper.to_array(self._weights[layer.weight])
        taps_first = weight.transpose(2, 3, 1, 0) if choice.channels_last else weight.transpose(2, 3, 0, 1)
        shape = taps_first.shape[2:]
        stored = graph.constant(f"{name}/weight", np.ascontiguousarray(taps_first).reshape(-1, shape[0] * shape[1]))
        matrix = graph.matrix(f"{matrices.tile}/weight", matrices.weight)
        flat = graph.add("MatMul", [matrix, stored], f"{name}/weight_flat")
        return graph.add("Reshape", [flat, graph.integers(matrices.reach**2, *shape)], f"{name}/weight_values")

    def _finish(
        self, name: str, products: str, layer: Layer, grid: TileGrid, strip: slice, *, channels_last: bool
    ) -> str:
        """Output transform, pooling, bias and ReLU: from the products `[n*n, ...]` to rows of a packed result."""
        graph, tile = self._graph, grid.tile
        key, matrix = f"{tile}/output", transforms(tile).output
        result = self._both_ways(f"{name}/output", products, key, matrix, grid.zero_rows)
        if grid.pools:
            result = self._pool_pairs(f"{name}/across", result, (tile + grid.zero_rows) * grid.side)
            result = self._pool_pairs(f"{name}/down", result, grid.side + 1)
        sizes = (-1, layer.filters) if channels_last else (layer.filters, -1)
        result = graph.add("Reshape", [result, graph.integers(grid.blocks, *sizes)], f"{name}/blocks")
        if layer.bias:
            result = graph.add("Add", [result, self._bias(layer, grid, channels_last=channels_last)], f"{name}/biased")
        if layer.relu:
            result = graph.add("Relu", [result], f"{name}/activated")
        rows = grid.blocks * (strip.stop - strip.start) * (1 if channels_last else layer.filters)
        return graph.add("Reshape", [result, graph.integers(rows, -1)], f"{name}/packed")

    def _pool_pairs(self, name: str, values: str, pairs: int) -> str:
        """The larger of two neighbours; onnxruntime is seven times slower at this along a first axis."""
        graph = self._graph
        split = graph.add("Reshape", [values, graph.integers(pairs, 2, -1)], f"{name}/pairs")
        return graph.add("ReduceMax", [split, graph.integers(1)], f"{name}/larger", keepdims=0)

    def _bias(self, layer: Layer, grid: TileGrid, *, channels_last: bool) -> str:
        bias = np.zeros((grid.blocks, layer.filters), np.float32)  # none for the zeros of the padding
        bias[: grid.side**2] = numpy_helper.to_array(self._weights[layer.bias])
        return self._graph.shared(f"{layer.name}/bias", np.expand_dims(bias, 1 if channels_last else 2))


class _SharingBuilder(GraphBuilder):
    """Gives equal shapes, transform matrices and the strips' bias one constant."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: set[str] = set()

    def integers(self, *values: int) -> str:
        return self.shared(f"winograd/{','.join(map(str, values))}", np.array(values, np.int64))

    def matrix(self, name: str, value: np.ndarray) -> str:
        return self.shared(f"winograd/{name}", value.astype(np.float32))

    def shared(self, name: str, value: np.ndarray) -> str:
        """Add a constant unless it is there."""
        if name not in self._shared:
            self._shared.add(name)
            self.constant(name, value)
        return PREFIX + name
