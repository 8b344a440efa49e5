"""A part of the report: what its template shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """One part of the page with a heading of its own.

    Attributes:
        id: what links to it name; unique in the page.
        heading: shown above it and in the list of contents.
        template: file name below `templates/`; it sees `content`.
        content: what it shows. Texts are escaped by the template, `markupsafe.Markup` is not.
    """

    id: str
    heading: str
    template: str
    content: Mapping[str, Any]
