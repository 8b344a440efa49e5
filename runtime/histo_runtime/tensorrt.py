"""What TensorRT is told: where its engines are kept, and for which shapes they are built."""

from __future__ import annotations

from pathlib import Path

from histo_runtime.cache import user_cache
from histo_runtime.errors import OutputError


def engine_folder(sha256: str, onnxruntime: str, patches: int) -> Path:
    """Make the folder for the engines of one model; one of another file, version or batch would not fit.

    Raises:
        OutputError: it can't be made.
    """
    folder = user_cache() / "histo-edge" / "tensorrt" / sha256[:16] / f"onnxruntime-{onnxruntime}-batch-{patches}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: can't be made ({error.strerror}): set XDG_CACHE_HOME to a folder where TensorRT's engines fit"
        ) from error
    return folder


def engine_options(folder: Path, index: int) -> dict[str, str]:
    """Return the options of the TensorRT provider for a device and a folder of engines."""
    return {
        "device_id": str(index),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def profile_options(size: int, views: int, patches: int) -> dict[str, str]:
    """Return the shapes that an engine is built for: 1 to `patches` patches, at its best for all of them.

    Args:
        size: side of a patch in pixels.
        views: of the model; with more than one it has the input `views`.
        patches: a batch.
    """
    least = f"patches:1x{size}x{size}x3" + (",views:1" if views > 1 else "")
    most = f"patches:{patches}x{size}x{size}x3" + (f",views:{views}" if views > 1 else "")
    return {"trt_profile_min_shapes": least, "trt_profile_opt_shapes": most, "trt_profile_max_shapes": most}
