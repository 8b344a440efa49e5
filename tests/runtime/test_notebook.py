"""Cards and predictions show in a notebook, go to pandas, and bring no script along."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from histo_runtime import ModelCard, PatchClassifier
from histo_runtime.predictions import interpret
from tests.runtime.onnx_bytes import with_card

EVIL = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """What a browser makes of it: tags, texts and attributes; a tag that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.sources: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_card_shows_what_it_says_and_its_golden_patches(tiny: PatchClassifier) -> None:
    page = Page(tiny.card._repr_html_())
    assert "normal, tumour" in page.texts
    assert any("Research use only" in text for text in page.texts)
    assert page.sources == [f"data:image/png;base64,{one['png']}" for one in tiny.card.golden]


def test_predictions_show_counts_and_the_first_rows(tiny: PatchClassifier, patches: np.ndarray) -> None:
    middle = float(np.median(tiny.predict(patches).probability))
    found = PatchClassifier(tiny.model, device="cpu", threads=1, threshold=middle).predict(patches)
    page = Page(found._repr_html_())
    tumour = int((found.label == "tumour").sum())
    assert f"24 patches: {24 - tumour} normal, {tumour} tumour" in page.texts
    assert page.tags.count("tr") == 11
    assert f"{found.probability[3]:.4f}" in page.texts
    assert "and 14 more" in page.texts
    assert "more" not in tiny.predict(patches[:10])._repr_html_()
    assert Page(tiny.predict([])._repr_html_()).tags.count("tr") == 1


def test_texts_of_a_file_can_not_become_script(tiny: PatchClassifier, patches: np.ndarray, tmp_path: Path) -> None:
    golden = [{"png": EVIL, "probability": EVIL}]
    model = with_card(
        tiny.model, tmp_path / "m.onnx", lambda card: card.update(name=EVIL, classes=["a", EVIL], golden=golden)
    )
    classifier = PatchClassifier(model, device="cpu", threads=1)
    for html in (classifier.card._repr_html_(), classifier.predict(patches)._repr_html_()):
        page = Page(html)
        assert set(page.tags) <= {"table", "tr", "th", "td", "p", "img"}
        assert any(EVIL in text for text in page.texts)


def test_a_patch_without_a_number_is_counted_as_failed(tiny: PatchClassifier) -> None:
    nothing = np.array([np.nan, 0.7], np.float32)
    found = interpret(tiny.card, nothing, nothing[:, None], ("identity",), threshold=0.5, views=np.array([1, 1]))
    assert "2 patches: 1 failed, 1 tumour" in Page(found._repr_html_()).texts


def test_cards_go_to_pandas_as_a_table_of_models(tiny: PatchClassifier, tiny_softmax: PatchClassifier) -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame([tiny.card.to_pandas(), tiny_softmax.card.to_pandas()])
    assert table["activation"].tolist() == ["sigmoid", "softmax"]
    assert "golden" not in table
    assert tiny.card.to_pandas().name == "tiny"


def test_predictions_and_cards_are_frozen(tiny: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny.predict(patches[:2])
    with pytest.raises(AttributeError):
        found.probability = None
    with pytest.raises(AttributeError):
        tiny.card.threshold = 0.1
    assert isinstance(tiny.card, ModelCard)
    assert "2 predictions" in repr(found)
    assert found != tiny.predict(patches[:2])
    assert len({found, found}) == 1
