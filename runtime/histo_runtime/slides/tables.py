"""tiles.csv and tiles.parquet: the table of patches with level-0 places in place of paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from histo_runtime.files import written_aside
from histo_runtime.results import Table, decode, encode, write_parquet
from histo_runtime.slides.tiles import place_of

TILES = "tiles.csv"
PLACE = ("x", "y", "size", "size_y")


def write_tiles(folder: Path, table: Table, blocks: Callable[[], Iterable[bytes]], tile: tuple[int, int]) -> None:
    """Write both files from the rows of a run; each appears when it is whole.

    `size` is a tile's side across and `size_y` down, in level-0 pixels: the same where pixels are square.

    Raises:
        OutputError: one can't be written.
    """
    columns = (*PLACE, *table.columns[1:])
    with written_aside(folder / TILES) as temporary, temporary.open("wb") as file:
        file.write(encode([columns]))
        file.writelines(_placed(blocks(), tile))
    with written_aside(folder / "tiles.parquet") as temporary:
        write_parquet(temporary, columns, _placed(blocks(), tile))


def _placed(blocks: Iterable[bytes], tile: tuple[int, int]) -> Iterator[bytes]:
    sides = [str(side) for side in tile]
    for block in blocks:
        yield encode([*map(str, place_of(cells[0])), *sides, *cells[1:]] for cells in decode(block))
