"""Where programs keep what they can make again, by the custom of the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """Return the user's cache folder, which all programs share: `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`."""
    if sys.platform == "win32":
        named, otherwise = os.environ.get("LOCALAPPDATA"), "~/AppData/Local"
    elif sys.platform == "darwin":
        named, otherwise = None, "~/Library/Caches"
    else:
        named, otherwise = os.environ.get("XDG_CACHE_HOME"), "~/.cache"
    return Path(named or otherwise).expanduser()
