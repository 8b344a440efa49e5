"""Reports by `histo-infer`, and what a browser would see of their page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from histo_runtime.cli import infer
from tests.runtime.infer_command import SIGMOID


def run(*arguments: object, model: Path | None = SIGMOID) -> Result:
    options = ["--model", str(model), "--device", "cpu"] if model else []
    result = CliRunner().invoke(infer, [*map(str, arguments), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def again(*arguments: object) -> Result:
    """Make only a report."""
    return run(*arguments, model=None)


class Reader(HTMLParser):
    """What a browser would see of a page: tags, texts, pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.pictures: list[tuple[str, str]] = []  # source, alternative text
        self.texts: list[str] = []
        self.drawn: list[str] = []  # texts of charts
        self.last = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.last = tag
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag == "img":
            self.pictures.append((dict(attrs)["src"] or "", dict(attrs)["alt"] or ""))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.last == "text":
            self.drawn.append(data)

    def pixels(self) -> list[np.ndarray]:
        data = (base64.b64decode(source.partition(",")[2]) for source, _ in self.pictures)
        return [np.asarray(Image.open(io.BytesIO(each))) for each in data]
