"""The site: what mkdocs does with the pages besides. mkdocs.yml names this file as its hook.

The pages are written to be read on a forge as they are, so their links are those of the repository. Here a link to a
file outside docs/ becomes one to a page of the site: README.md and its like become pages, and of source files there is
a page with numbered lines. Each message in docs/troubleshooting.md gets a link to the lines that say it.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

from documentation.messages import PAGE, QUOTED, ROOT, Message, form, messages

# Pages of the site that lie outside docs/.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
_ORIGIN = {uri: path for path, uri in PAGES.items()}
_FENCED = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(?=\))")
_LANGUAGES = {".py": "python", ".sh": "bash", ".mjs": "javascript", ".service": "ini", ".toml": "toml"}

_log = logging.getLogger("mkdocs.hooks.site")  # a warning there fails a strict build


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/, and those of source files."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    pages = [ROOT / _origin(file.src_uri) for file in files.documentation_pages()]
    sources = {path for page in pages for path in _linked(page) if _is_source(path)}
    for path in sorted(sources | {message.path for message in messages()}):
        content = _source_page(path)
        files.append(File.generated(config, _uri(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  # mkdocs' names
    """Point links at pages of the site, and messages at their lines."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    origin = _origin(uri)
    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: link[1] + _on_site(link[2], origin, uri), part) for part in parts[::2]]
    markdown = "".join(parts)
    return QUOTED.sub(_with_lines, markdown) if origin == PAGE else markdown


def _origin(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    return _ORIGIN.get(uri, f"docs/{uri}")


def _uri(path: str) -> str:
    """Return the page of the site that a file of the repository becomes."""
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md")


def _is_source(path: str) -> bool:
    return _uri(path).startswith("source/") and (ROOT / path).is_file()


def _linked(page: Path) -> Iterator[str]:
    """Yield the files of the repository that a page links to."""
    origin = page.relative_to(ROOT).as_posix()
    for link in _LINK.finditer(page.read_text(encoding="utf-8")):
        if not _is_outside(link[2]):
            yield _target(link[2], origin)[0]


def _is_outside(link: str) -> bool:
    return "://" in link or link.startswith(("#", "mailto:"))


def _target(link: str, origin: str) -> tuple[str, str]:
    """Return the path in the repository that a link means, and its anchor."""
    path, _, anchor = link.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)), anchor


def _on_site(link: str, origin: str, uri: str) -> str:
    if _is_outside(link):
        return link
    path, anchor = _target(link, origin)
    if not (ROOT / path).is_file():
        _log.warning("%s links to %s, which is no file of the repository", origin, link)
    relative = posixpath.relpath(_uri(path), posixpath.dirname(uri) or ".")
    return f"{relative}#{anchor}" if anchor else relative


def _source_page(path: str) -> str:
    language = _LANGUAGES.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text(encoding="utf-8").rstrip("\n")
    # Front matter: the search is for the pages, not for the code.
    return f'---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language} linenums="1"\n{text}\n````\n'


@cache
def _by_form() -> dict[str, list[Message]]:
    """Return where each message is said: by an error or finding, else the first place that has the text."""
    found: dict[str, list[Message]] = {}
    for message in messages():
        found.setdefault(message.text, []).append(message)
    return {text: [said for said in each if said.raised] or each[:1] for text, each in found.items()}


def _with_lines(item: re.Match[str]) -> str:
    said = _by_form().get(form(item[1]), [])
    if not said:
        _log.warning("%s quotes a message that no one says: %s", PAGE, item[1])
    # HTML, because mkdocs looks for anchors before the code is numbered.
    links = (
        f'<a class="line" href="source/{message.path}.html#__codelineno-0-{message.line}">'
        f"{Path(message.path).name}:{message.line}</a>"
        for message in said
    )
    return f"{item[0]} {' '.join(links)}"
