"""Image files of a bucket or of any other place that fsspec opens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError, PatchError
from histo_runtime.patches import FILE_LIMIT, is_image_name, read_patch, too_large
from histo_runtime.urls import filesystem, is_url, local_path, url_failed


@dataclass(frozen=True)
class RemoteFiles:
    """Files below the URL `root`, under names that start with `prefix`; a URL or an absolute path stands for itself.

    Attributes:
        sizes: of the files that were listed and are too large to be patches: they are not fetched.
    """

    root: str = ""
    prefix: str = ""
    sizes: dict[str, int] = field(default_factory=dict)

    def walk(self) -> Iterator[str]:
        """Yield all files below the root, relative to it.

        Raises:
            InputError: there is no such folder, or it can't be listed.
        """
        system, top = filesystem(self.root)
        top = top.rstrip("/") + "/"
        try:
            found = system.find(top, detail=True)
        except Exception as error:  # what clouds raise shares no base class
            raise url_failed(self.root, error) from error
        if not found:
            raise url_failed(self.root, FileNotFoundError())
        for path, facts in found.items():
            name = path.removeprefix(top)
            if (facts.get("size") or 0) > FILE_LIMIT and is_image_name(name):
                self.sizes[name] = facts["size"]
            yield name

    def decode(self, name: str, _number: int, *, size: int, resize: bool) -> NDArray[np.uint8]:
        """Fetch and decode a file; arguments and errors as of `read_patch`.

        Raises:
            InputError: the place itself fails (no connection, no permission): that ends the run.
        """
        inside = name[len(self.prefix) :]
        if inside in self.sizes:
            raise too_large(self.sizes[inside])
        if inside.startswith("/") or inside != local_path(inside):  # in a list behind a URL
            return read_patch(local_path(inside), size=size, resize=resize)
        url = name if is_url(name) else f"{self.root.rstrip('/')}/{inside}"
        try:
            system, path = filesystem(url)
            data = system.cat_file(path)
        except HistoError:
            raise
        except FileNotFoundError as error:
            raise PatchError("can't be read: No such file or directory") from error
        except Exception as error:  # as above
            raise url_failed(url, error) from error
        return read_patch(data, size=size, resize=resize)

    def folder(self, name: str) -> str:
        """Return the name of the folder that the file lies in."""
        return f"{self.root}/{name[len(self.prefix) :]}".rstrip("/").rpartition("/")[0].rpartition("/")[2]
