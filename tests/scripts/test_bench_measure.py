"""What the benchmark measures when its time is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.measure import Plan
from benchmark.rows import ROWS
from benchmark.run import Request, run_benchmark

pytest.importorskip("matplotlib", reason="the picture needs it")
pytest.importorskip("onnx", reason="the plain graph is cut out of the fp32 file with it")


def test_a_quick_run_whose_time_is_up_still_measures_what_ours_is_held_against(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    """The first start of a slow machine: nothing but what matters, and that whole."""
    model = tmp_path / "model.h5"
    model.write_bytes(b"")
    rows = tuple(row for row in ROWS if row.key in ("keras", "onnxruntime", "openvino", "fp32"))
    request = Request(
        model=model,
        given={"fp32": models / "sigmoid_d4.onnx"},
        patches=folder,
        calibrate=None,
        output=tmp_path / "out",
        rows=rows,
        plan=Plan(rounds=2, seconds=0.1, scored=4, quick=True, limit=0),
        threads=1,
        count=8,
    )
    found = {row["key"]: row for row in run_benchmark(request, lambda _message: None)["rows"]}
    assert list(found) == [row.key for row in rows]
    for key in ("onnxruntime", "fp32"):
        assert found[key]["why"] == ""
        assert len(found[key]["rounds"]) == 1, "later rounds wait for time"
        assert found[key]["scored"] == 4
    assert "--quick" not in found["keras"]["why"], "an empty file is what keeps Keras from it, not the time"
    assert found["openvino"]["why"] == "left out: --quick had no time left (--rows openvino asks for it)"
