"""The site of the documentation: it builds without a warning, and needs no network."""

import importlib.util
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import CHECKOUT, PAGES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="needs `uv run --group docs`, and Python 3.11"
)
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}  # what a browser fetches with a page


class References(HTMLParser):
    """What a page of HTML leads to (`links`), loads (`loaded`), and can be led to (`anchors`)."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        self.anchors |= {named.get("id", ""), named.get("name", "")}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag in LOADED and named.get("rel") != "canonical" and LOADED[tag] in named:
            self.loaded.append(named[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, References]:
    """The pages of a site built from a copy of what it is made of."""
    place = tmp_path_factory.mktemp("site")
    for name in ("docs", "ppo_lm", "tests", "benchmarks", "configs", "examples"):
        shutil.copytree(CHECKOUT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for file in CHECKOUT.iterdir():
        if file.is_file():
            shutil.copy(file, place)
    done = subprocess.run(
        [sys.executable, "docs/build_site.py"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    pages = (place / "site" / "html").rglob("*.html")
    return {page: References(page.read_text(encoding="utf-8")) for page in pages}


def test_every_page_is_there(site):
    root = min(site, key=lambda page: len(page.parts)).parent
    names = {str(page.relative_to(root)) for page in site}
    expected = {page.replace("README.md", "index.md").replace(".md", ".html") for page in PAGES}
    assert expected <= names


def test_every_page_has_its_place_in_the_navigation():
    import tomllib  # Python 3.11, as zensical

    nav = tomllib.loads((CHECKOUT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = []
    for part in nav:
        for entry in part.values() if isinstance(part, dict) else [part]:
            named += entry if isinstance(entry, list) else [entry]
    assert sorted(named) == sorted(PAGES)


def test_every_link_of_the_site_resolves(site):
    broken = []
    for page, found in site.items():
        for link in found.links + found.loaded:
            parts = urlsplit(link)
            if parts.scheme or page.name == "404.html":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (target in site and unquote(parts.fragment) not in site[target].anchors):
                broken.append(f"{page.name}: {link}")
    assert not broken


def test_no_page_loads_anything_from_another_server(site):
    loaded = {link for found in site.values() for link in found.loaded}
    assert loaded and not [link for link in loaded if urlsplit(link).scheme not in ("", "data")]


def test_the_reference_shows_signatures_and_docstrings(site):
    [page] = [page for page in site if page.name == "api.html"]
    text = page.read_text(encoding="utf-8")
    assert {"ppo_lm.ppo_trainer.PPOTrainer", "ppo_lm.ppo_trainer.PPOTrainer.ppo_step"} <= site[page].anchors
    assert "Sample, score and train on one batch of prompts" in text
