"""Write docs/model-card.md and its pictures from a run of histo-train and what the files made of it said."""

from __future__ import annotations

from pathlib import Path

import click

from histo_runtime.checksum import sha256_of
from histo_runtime.command import HistoCommand, say
from histo_runtime.errors import InputError
from histo_runtime.files import written_aside

_TABLE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("model_card.py", cls=HistoCommand)
@click.argument("run", metavar="MODEL.training", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", required=True, type=_TABLE, help="The ONNX file that is shipped.")
@click.option("--shipped", required=True, type=_TABLE, help="Its table of the validation patches, by --per-view.")
@click.option("--adaptive", required=True, type=_TABLE, help="Its table by --tta adaptive.")
@click.option("--fp32", required=True, type=_TABLE, help="The table of the same network in fp32, by --per-view.")
@click.option("--start", required=True, type=_TABLE, help="The table of the start model, by --per-view.")
@click.option(
    "--patches",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of validation patches that the run and the tables are of.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="docs/model-card.md", show_default=True)
def main(
    run: Path, model: Path, shipped: Path, adaptive: Path, fp32: Path, start: Path, patches: Path, output: Path
) -> None:
    """Write the page about a model and, in a folder of its name, the pictures.

    Figures are of the half of the validation patches on which MODEL.training tuned nothing.
    """
    from histo_train.pictures import draw
    from modelcard.page import Tables, write_page
    from modelcard.scores import read_scores
    from modelcard.strata import strata
    from modelcard.validation import read_validation

    validation = read_validation(run, patches)
    tables = Tables(*(read_scores(path, validation) for path in (shipped, adaptive, fp32, start)))
    if tables.shipped.record.data["model"]["sha256"] != sha256_of(model):
        raise InputError(f"{shipped}: was scored with another model than {model}: score the patches again")
    pictures = output.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    card, epochs = tables.shipped.record.card, validation.record["epochs"]
    drawn = draw(pictures, tables.shipped.evaluation(), epochs, validation, (card.classes[0], card.classes[1]))
    text = write_page(tables, list(strata(tables.shipped)), model.stat().st_size, Path(pictures.name))
    with written_aside(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"{output} and {len(drawn)} pictures in {pictures}")


if __name__ == "__main__":
    main()
