"""What the site needs beside mkdocs: pages link to files of the repository, which then belong to the site.

A link such as `../deploy/ratel.toml` works where the repository is browsed. In the site that file is at
`source/deploy/ratel.toml`, copied there because a page links to it; Markdown becomes a page. So the site is
whole by itself, and a link to a file that there is not stops the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = "source"
ARRIVING: Final = frozenset({"monitoring.md", "status-page.md", "tutorial-session.md"})
"""Pages that are left out of the navigation where they are not there."""
_LINK: Final = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?\)")
_FENCED: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> None:
    config.nav = without_missing(config.nav or [])


def without_missing(nav: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            kept += [
                {
                    title: without_missing(value) if isinstance(value, list) else value
                    for title, value in entry.items()
                }
            ]
        elif entry not in ARRIVING or (ROOT / "docs" / entry).is_file():
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages link to, and those that these link to in turn."""
    waiting = [file.src_uri for file in files if file.src_uri.endswith(".md")] + [f"{SOURCE}/CHANGELOG.md"]
    seen: set[str] = set()
    while waiting:
        uri = waiting.pop()
        if uri in seen:
            continue
        seen.add(uri)
        if uri.startswith(f"{SOURCE}/") and files.get_file_from_path(uri) is None:
            content = (ROOT / uri.removeprefix(f"{SOURCE}/")).read_bytes()
            files.append(File.generated(config, uri, content=content))
        if uri.endswith(".md"):
            text = repository_path(uri).read_text()
            waiting += [
                target for link in _LINK.finditer(text) if (target := site_uri(uri, link[2])) is not None
            ]
    return files


def repository_path(uri: str) -> Path:
    return ROOT / uri.removeprefix(f"{SOURCE}/") if uri.startswith(f"{SOURCE}/") else ROOT / "docs" / uri


def site_uri(page_uri: str, link: str) -> str | None:
    """The site's name of the file that a page links to; None if there is no such file."""
    target = (repository_path(page_uri).parent / link).resolve()
    if target.is_dir() and (target / "README.md").is_file():
        target /= "README.md"
    if not target.is_file() or not target.is_relative_to(ROOT):
        return None
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix()
    return f"{SOURCE}/{target.relative_to(ROOT).as_posix()}"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri

    def replaced(link: re.Match[str]) -> str:
        target = site_uri(uri, link[2])
        if target is None:
            return link[0]  # mkdocs says that there is no such file
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{link[3] or ''})"

    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(replaced, part) for number, part in enumerate(parts))
