"""A picture of augmented patches beside what they were, for the eye to judge whether they could still be tissue."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from keras import ops
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from histo_runtime.files import written_aside
from histo_train.augment import change
from histo_train.batches import training_batches
from histo_train.data import Patches
from histo_train.recipe import Augmentation

SHEET_PATCHES = 64
_PAIRS_ACROSS = 8
_GAP = 4  # pixels between patches of a pair, twice as many between pairs
_CAPTION = "Pairs: a patch as it was read, and as training may see it; crops are cut from its middle."
_CAPTION_HEIGHT = 20


def write_augmentation_sheet(patches: Patches, augmentation: Augmentation, *, seed: int, path: Path) -> None:
    """Draw up to 64 training patches, each as it is and augmented as in a batch of so many, into a PNG file.

    Raises:
        OutputError: the file can't be written.
    """
    batches = training_batches(patches, seed=seed, epoch=1, batch_size=SHEET_PATCHES, augmentation=augmentation)
    with closing(batches):
        pixels, changes, _ = next(batches)
    changed = ops.convert_to_numpy(change(pixels, changes, crop=pixels.shape[1]))
    sheet = _sheet(pixels, np.rint(changed * 255).astype(np.uint8))
    with written_aside(path) as temporary:
        sheet.save(temporary, format="PNG")


def _sheet(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Image.Image:
    count, size = before.shape[:2]
    width, height = 2 * size + 3 * _GAP, size + 2 * _GAP
    rows = -(-count // _PAIRS_ACROSS)
    sheet = Image.new("RGB", (_PAIRS_ACROSS * width, rows * height + _CAPTION_HEIGHT), "white")
    ImageDraw.Draw(sheet).text((_GAP, _GAP), _CAPTION, fill="black")
    for index in range(count):
        row, column = divmod(index, _PAIRS_ACROSS)
        left, top = column * width + _GAP, _CAPTION_HEIGHT + row * height + _GAP
        sheet.paste(Image.fromarray(before[index]), (left, top))
        sheet.paste(Image.fromarray(after[index]), (left + size + _GAP, top))
    return sheet
