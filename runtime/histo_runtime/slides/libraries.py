"""The libraries of the extra `slides`, imported when they are first needed and named when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from histo_runtime.errors import missing_extra

# What pip calls them, where that is not the name of the module.
_PACKAGES = {"openslide": "openslide-python openslide-bin"}


def library(module: str, purpose: str) -> Any:
    """Import a module of the extra.

    Raises:
        MissingExtraError: it is not installed; names the line that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(_PACKAGES.get(module, module), "slides", purpose) from error


def check_libraries() -> None:
    """Refuse a run whose results could not be written, before any slide is read.

    Raises:
        MissingExtraError: names the first library that is missing.
    """
    for module in ("openslide", "tifffile", "shapely", "pyarrow"):
        library(module, "scoring slides")
