"""A run of `histo-infer` over slides: each into its own folder, with a summary of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histo_runtime.classifier import PatchClassifier
from histo_runtime.command import say
from histo_runtime.errors import OutputError, SlideError
from histo_runtime.lock import locked
from histo_runtime.results import partial_path, table_name
from histo_runtime.run_record import RunOptions, Unfinished, settings_of
from histo_runtime.scoring import score
from histo_runtime.slides.found import FoundSlide
from histo_runtime.slides.given_mask import read_mask
from histo_runtime.slides.outputs import RUN, SlideOutputs, finished
from histo_runtime.slides.overview import read_overview
from histo_runtime.slides.plan import SlidePlan, SlideSettings, check_model, plan_slide
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.summary import check_summary, write_summary
from histo_runtime.slides.tables import TILES
from histo_runtime.slides.tiles import SlideTiles
from histo_runtime.slides.tissue import tissue_mask

SUMMARY = "summary.csv"


def unfinished_in(output: Path) -> Unfinished:
    """Return the settings of a slide whose run was cut off in a folder, if there is one."""
    if output.is_dir():
        for path in sorted(output.rglob(f"{TILES}.partial")):
            return settings_of(str(path).removesuffix(".partial"))
    return Unfinished()


@dataclass(frozen=True)
class _Run:
    classifier: PatchClassifier
    options: RunOptions
    settings: SlideSettings
    tile_mpp: float

    def row(self, found: FoundSlide) -> dict[str, Any]:
        """Score a slide, or find it finished; returns its row of the summary."""
        folder = Path(self.options.output, found.folder)
        with Slide(found.path) as slide:
            plan = plan_slide(slide, self.classifier.card, self.settings, self.tile_mpp)
            made_by = self._made_by(plan)
            there, figures = finished(folder, made_by)
            if figures is not None:
                with suppress(OSError):  # killed between its record and the end of its journal
                    partial_path(str(folder / TILES)).unlink(missing_ok=True)
                return {**figures, "slide": table_name(found.folder)}
            if there:
                self._make_way(folder)
            _make_folder(folder)
            tiles, outputs = self._prepared(slide, found, plan, made_by)
            _warn_of_margin(slide, found.folder)
            options = replace(self.options, output=str(folder / TILES))
            summary = score(self.classifier, tiles, options, finish=outputs.write)
        unlike = summary.tally.colour.unlike(self.classifier.card.colour)
        if unlike:
            say(f"warning: {found.folder}: {unlike}")
        _, figures = finished(folder, made_by)
        if figures is None:
            raise OutputError(f"{folder}: its {RUN} was changed while the run went on: run the same command again")
        return figures

    def _prepared(
        self, slide: Slide, found: FoundSlide, plan: SlidePlan, made_by: Mapping[str, Any]
    ) -> tuple[SlideTiles, SlideOutputs]:
        """Find the tissue, and with it the tiles."""
        overview = read_overview(slide, plan.mpp)
        if self.settings.mask is None:
            mask = tissue_mask(overview.rgb)
            # What can't be read small may be tissue: its tiles are tried, so that each has a row.
            chosen = plan.grid.tissue_tiles(mask | overview.unreadable, overview)
        else:
            mask = read_mask(self.settings.mask, overview)
            chosen = plan.grid.tissue_tiles(mask, overview)
        tiles = SlideTiles(slide, found.folder, plan.grid, chosen, self.classifier.card.size, plan.facts)
        if not len(tiles):
            say(f"{found.path}: no tissue found, there is nothing to score")
        details = {
            "library": slide.by,
            "level_read": tiles.level,
            "downsample": slide.levels[tiles.level].downsample,
            "mask_share": float(np.mean(mask)),
            "unreadable_share": float(np.mean(overview.unreadable)),
            "bounds": slide.bounds,
        }
        folder = Path(self.options.output, found.folder)
        card, threshold = self.classifier.card, self.classifier.threshold
        return tiles, SlideOutputs(folder, found.folder, plan, overview, mask, card, threshold, made_by, details)

    def _make_way(self, folder: Path) -> None:
        if not self.options.overwrite:
            raise OutputError(
                f"{folder}: holds results of another model, slide or settings: choose another folder, or add"
                " --overwrite"
            )
        (folder / RUN).unlink()

    def _made_by(self, plan: SlidePlan) -> dict[str, Any]:
        """What makes a slide's results these and no others."""
        return {
            "model": self.classifier.sha256,
            "tta": self.options.tta,
            "per_view": self.options.per_view,
            "threshold": self.classifier.threshold,
            "exact": self.classifier.exact,
            **plan.facts,
        }


def score_slides(
    classifier: PatchClassifier, slides: Sequence[FoundSlide], options: RunOptions, settings: SlideSettings
) -> list[dict[str, Any]]:
    """Score slides into the folder `options.output`, which is made; returns the rows of the summary.

    A slide that is finished for this model and these settings is left as it is; one that was cut off goes on; one that
    can't be read is a row with its reason.

    Raises:
        OutputError: results of something else are in the way, or something can't be written.
        InputError: the model does not fit, or the user's mask can't be read.
        MissingExtraError: a library of the extra `slides` is not installed.
        KeyboardInterrupt: with a text that says how to go on.
    """
    run = _Run(classifier, options, settings, check_model(classifier.card, settings, classifier.model))
    output = Path(options.output)
    _make_folder(output)
    summary = output / SUMMARY
    check_summary(summary, overwrite=options.overwrite)
    rows: list[dict[str, Any]] = []
    with locked(summary):
        for number, found in enumerate(slides, start=1):
            if not options.quiet:
                say(f"slide {number} of {len(slides)}: {found.folder}")
            try:
                rows.append(run.row(found))
            except SlideError as error:
                rows.append({"slide": table_name(found.folder), "error": str(error)})
            write_summary(summary, rows)
    return rows


def _warn_of_margin(slide: Slide, name: str) -> None:
    """Say where QuPath counts from another corner: it cuts slides to what was scanned, both ways or not at all."""
    if slide.bounds is None:
        return
    left, top, width, height = slide.bounds
    if (left, top) != (0, 0) and width != slide.levels[0].width and height != slide.levels[0].height:
        say(
            f"warning: {name}: QuPath cuts off the margin, {left} pixels left and {top} above, and shows regions and"
            " heatmap off by that: open the slide there with --no-crop"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made ({error.strerror}): choose another folder") from error
