"""Every link in the documentation leads somewhere."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import CHECKOUT, PAGES, anchors, links

pytestmark = pytest.mark.fast


def local_links(page: str) -> list[tuple[Path, str]]:
    """(file, anchor) of each link that does not leave the repository."""
    found = []
    for link in links(page):
        parts = urlsplit(link)
        if not parts.scheme:
            path = (CHECKOUT / page).parent / unquote(parts.path) if parts.path else CHECKOUT / page
            found.append((path.resolve(), unquote(parts.fragment)))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_and_headings_resolve(page):
    missing = []
    for path, anchor in local_links(page):
        if not path.exists() or not path.is_relative_to(CHECKOUT):
            missing.append(str(path))
        elif anchor and anchor not in anchors(str(path.relative_to(CHECKOUT))):
            missing.append(f"{path}#{anchor}")
    assert not missing


def test_links_to_other_sites_are_encrypted_and_listed():
    """They are not fetched: the tests need no network. `pytest -rP` shows the list."""
    outside = {link for page in PAGES for link in links(page) if urlsplit(link).scheme}
    print("\n".join(sorted(outside)))
    assert outside and all(urlsplit(link).scheme == "https" for link in outside)


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for path, _ in local_links(page):
            name = str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else ""
            if name in PAGES and name not in reached:
                waiting.append(name)
    assert reached == set(PAGES)


def test_anchors_are_github_s(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Own `Reward`, C++ & [a link](x.md)\n\n## Again\n\n### Again\n\n```\n# no heading\n```\n")
    assert anchors(str(page)) == {"own-reward-c--a-link", "again", "again-1"}
