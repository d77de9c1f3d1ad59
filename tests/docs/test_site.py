"""The site is whole: it builds strictly, offline, and all its links lead somewhere; so do the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.terminal import ROOT
from tests.reference_doc import PAGES

IN_TEXT = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
SOURCE = re.compile(r"\b(docs/[\w/-]+\.md)")
HEADING = re.compile(r'^#+ +(.+?) *$|<a id="([^"]+)">', re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


class Html(HTMLParser):
    """Where a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.anchors.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        elif tag in ("link", "img", "script", "iframe"):
            self.loaded += [str(found[name]) for name in ("href", "src") if found.get(name)]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None:
        pytest.skip("there is no mkdocs: `make setup`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ
        | {
            "NO_MKDOCS_2_WARNING": "1",
            "http_proxy": "http://127.0.0.1:1",
            "https_proxy": "http://127.0.0.1:1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_link_of_the_site_leads_to_a_page_and_an_anchor(site: Path) -> None:
    pages = {path: Html(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are from the root of a server
            continue
        for link in page.links + page.loaded:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or link.startswith(("#__", "data:")):
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not [link for link in Html(path.read_text()).loaded if urllib.parse.urlsplit(link).netloc], (
            path
        )
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", path.read_text()), path


def anchors(page: Path) -> set[str]:
    """As where the repository is browsed: lower case, without punctuation, spaces as hyphens."""
    found = set()
    for title, named in HEADING.findall(FENCED.sub("", page.read_text())):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        found.add(named or re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def test_every_link_in_the_repository_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    assert len(documents) > 20
    broken = []
    for document in documents:
        for link in IN_TEXT.findall(FENCED.sub("", document.read_text())):
            path, _, anchor = link.partition("#")
            if ":" in path:
                continue
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert not broken


def test_pages_that_the_code_names_exist() -> None:
    named = {}
    for folder in ("balancer", "common", "rater", "deploy", "loadtests", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".lua", ".toml", ".conf", ".service", ".socket", ".acl", ".sh"):
                named |= dict.fromkeys(SOURCE.findall(path.read_text()), path)
    assert named
    missing = {page: str(path) for page, path in named.items() if not (ROOT / page).is_file()}
    assert not missing


@pytest.mark.source
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_reference_is_made_of_the_code(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "make settings"
