"""URLs (`s3://`, `gs://`, `file://` and whatever else fsspec opens) beside paths of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from histo_runtime.errors import InputError, missing_extra, reason_of

_LOCAL = "file://"
_SEPARATOR = "://"
# What clouds need beside fsspec itself, which names the package but not how this project installs it.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


def is_url(text: str) -> bool:
    """Tell a URL that fsspec has to open from a path; `file://` is a path with another name (`local_path`)."""
    return _SEPARATOR in text and not text.startswith(_LOCAL)


def local_path(text: str) -> str:
    """Return the path that a `file://` URL means; anything else as it is."""
    return text.removeprefix(_LOCAL)


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, one for each process and account, and the path in it.

    Raises:
        MissingExtraError: fsspec, or its package for this kind of URL, is not installed.
        InputError: fsspec knows no such kind of URL, or can't reach it.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise missing_extra("fsspec", "ray", f"opening {url}") from error
    protocol = url.partition(_SEPARATOR)[0]
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        if package is None:
            raise InputError(f"{url}: can't be opened: {error}") from error
        raise InputError(f"{url}: needs {package}: pip install {package}") from error
    except ValueError as error:
        raise InputError(f"{url}: fsspec opens no {protocol}:// URLs ({error})") from error
    return system, path


def open_binary(path: str, *, ahead: bool = False) -> BinaryIO:
    """Open a file or URL for reading bytes.

    Args:
        path: of this machine, or a URL.
        ahead: read more of a URL than is asked for, as suits small reads one after another; else just the ranges.
    """
    if not is_url(path):
        return Path(local_path(path)).open("rb")
    system, inside = filesystem(path)
    opened: BinaryIO = system.open(inside, "rb", **({} if ahead else {"cache_type": "none"}))
    return opened


def url_failed(url: str, error: Exception) -> InputError:
    """Describe a URL that can't be read as a whole; what clouds raise shares no base class."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{url}: no such file or folder")
    reason = "it has stopped answering" if isinstance(error, TimeoutError) else reason_of(error)
    return InputError(f"{url}: can't be read ({reason}): mend that and run the same command again")
