"""The runtime stays light and polite: it imports no other room and no builder, and changes nothing in its host."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import histo_runtime
from tests.conftest import imported

HEAVY = "tensorflow keras tf_keras onnx tf2onnx sklearn scipy torch jax ray fsspec histo_export histo_train".split()
MODULES = sorted(module.name for module in pkgutil.iter_modules(histo_runtime.__path__))


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `program`."""
    report = "\nimport sys; print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_no_module_of_the_runtime_loads_a_builder_or_another_room() -> None:
    program = "\n".join(f"import histo_runtime.{name}" for name in MODULES)
    assert not loaded_by(program) & set(HEAVY)
    assert "classifier" in MODULES


def test_scoring_a_patch_loads_no_builder_either(models: Path) -> None:
    program = (
        "import numpy as np; from histo_runtime import PatchClassifier\n"
        f"c = PatchClassifier({str(models / 'sigmoid_d4.onnx')!r}, device='cpu')\n"
        "c.predict(np.zeros((1, 32, 32, 3), np.uint8)).to_pandas()"
    )
    # pandas takes scipy along where it is installed, so scipy says nothing here.
    assert not loaded_by(program) & (set(HEAVY) - {"scipy"})


def test_import_histo_runtime_loads_nothing_heavy() -> None:
    assert not loaded_by("import histo_runtime") & {"numpy", "pandas", "onnxruntime", "PIL", "click"}


@pytest.mark.parametrize("command", ["infer", "doctor"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(command: str, option: str) -> None:
    program = f"from histo_runtime.cli import {command}\ntry: {command}(['{option}'])\nexcept SystemExit: pass"
    assert not loaded_by(program) & {"numpy", "pandas", "onnxruntime", "PIL"}


def test_the_public_names_are_there_and_no_others() -> None:
    assert set(histo_runtime.__all__) == set(dir(histo_runtime))
    for name in histo_runtime.__all__:
        assert getattr(histo_runtime, name) is not None
    with pytest.raises(AttributeError, match="'nothing'"):
        histo_runtime.nothing  # noqa: B018 - the access is what is tested
    assert (Path(histo_runtime.__path__[0]) / "py.typed").exists()


def test_importing_and_scoring_leave_the_host_as_it_was(models: Path) -> None:
    program = f"""
import io, logging, os, random, signal, sys, warnings
import numpy as np
import onnxruntime, PIL.Image  # what they do is theirs

# The last as text: a processor that was set to flush subnormals takes them for equal to 0.
def state():
    root = logging.getLogger()
    return (dict(os.environ), root.level, list(root.handlers), logging.getLogger("histo_runtime").handlers,
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], os.getcwd(), list(warnings.filters),
            sys.excepthook, sys.stdout, sys.stderr, random.getstate(), str(np.random.get_state()), np.geterr(),
            PIL.Image.MAX_IMAGE_PIXELS, list(sys.path), str(np.float64(5e-324) * 1.0))

before = state()
import histo_runtime
{chr(10).join(f"import histo_runtime.{name}" for name in MODULES)}
c = histo_runtime.PatchClassifier({str(models / "sigmoid_d4.onnx")!r}, device="cpu")
list(c.stream(np.zeros((40, 32, 32, 3), np.uint8)))
for was, is_now in zip(before, state()):
    assert was == is_now, (was, is_now)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_onnxruntime_reports_nothing_to_its_maker_and_leaves_nothing_in_the_home_folder(
    models: Path, tmp_path: Path
) -> None:
    program = f"""
import os
from histo_runtime import PatchClassifier
import numpy as np
PatchClassifier({str(models / "sigmoid_none.onnx")!r}, device="cpu").predict(np.zeros((1, 32, 32, 3), np.uint8))
assert "ORT_DISABLE_TELEMETRY" not in os.environ
"""
    # `CI` turns it off too, and a cache folder that is named lies elsewhere.
    off = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in off}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_the_tests_of_the_runtime_need_no_other_room() -> None:
    here = Path(__file__).parent
    assert not [(file.name, name) for file, name in imported(here) if name in HEAVY]
    assert not [file.name for file in here.glob("*.py") if "from tests.tiny" in file.read_text().split("def ", 1)[0]]
