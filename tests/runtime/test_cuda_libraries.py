"""The libraries that CUDA needs are known by name, and those that can't be loaded are told apart."""

from __future__ import annotations

import pytest

from histo_runtime.cuda_libraries import missing_libraries, needed_libraries


@pytest.mark.parametrize(
    ("cuda_version", "platform", "names"),
    [
        ("12.8", "linux", "libcuda.so.1 libcudart.so.12 libcublas.so.12 libcufft.so.11 libcudnn.so.9"),
        ("13.0", "linux", "libcuda.so.1 libcudart.so.13 libcublasLt.so.13 libcufft.so.12 libcudnn.so.9"),
        ("12.8", "win32", "nvcuda.dll cudart64_12.dll cublas64_12.dll cufft64_11.dll cudnn64_9.dll"),
    ],
)
def test_a_build_needs_the_libraries_of_its_version(cuda_version: str, platform: str, names: str) -> None:
    assert set(names.split()) <= set(needed_libraries(cuda_version, platform))


@pytest.mark.parametrize("cuda_version", ["", "unknown"])
def test_a_build_without_cuda_needs_none(cuda_version: str) -> None:
    assert needed_libraries(cuda_version) == ()


def test_what_can_not_be_loaded_is_missing() -> None:
    def load(name: str) -> None:
        if "cudnn" in name:
            raise OSError(f"{name}: cannot open shared object file")

    assert missing_libraries(["libcudart.so.12", "libcudnn.so.9"], load) == ["libcudnn.so.9"]
    assert missing_libraries(["no-such-library.so.1"]) == ["no-such-library.so.1"]
