"""The libraries that onnxruntime's CUDA provider needs, by name, and which of them are missing here."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)
# CUDA's major version -> that of cuFFT, which counts for itself.
_CUFFT = {11: 10, 12: 11, 13: 12}


def needed_libraries(cuda_version: str, platform: str = sys.platform) -> tuple[str, ...]:
    """Name the driver's library and those of CUDA and cuDNN 9 that a build for a version of CUDA loads.

    Args:
        cuda_version: `onnxruntime.cuda_version`, as "12.8"; empty for a build without CUDA.
        platform: as `sys.platform`.
    """
    major = int(cuda_version.split(".", maxsplit=1)[0]) if cuda_version.split(".", maxsplit=1)[0].isdigit() else 0
    if not major:
        return ()
    cufft = _CUFFT.get(major, major - 1)
    if platform == "win32":
        of_cuda = (f"cudart64_{major}", f"cublas64_{major}", f"cublasLt64_{major}", f"cufft64_{cufft}")
        return tuple(f"{name}.dll" for name in ("nvcuda", *of_cuda, "cudnn64_9"))
    names = {"cuda": 1, "cudart": major, "cublasLt": major, "cublas": major, "cufft": cufft, "curand": 10, "cudnn": 9}
    return tuple(f"lib{name}.so.{number}" for name, number in names.items())


def missing_libraries(names: Sequence[str], load: Callable[[str], Any] = ctypes.CDLL) -> list[str]:
    """Return those that can't be loaded; what was loaded before, by whatever path, is found by its name."""
    missing = []
    for name in names:
        try:
            load(name)
        except OSError:
            missing.append(name)
    return missing
