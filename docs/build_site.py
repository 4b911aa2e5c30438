"""Build the documentation as a site that needs no network: site/html/index.html.

    uv run --group docs docs/build_site.py

The pages are those that GitHub shows. Here they are copied to site/pages in the same layout; a link to a source file
leads to a page with its text, one to a folder to a list of its files. Any warning fails the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = CHECKOUT / "site" / "pages"
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)")
PICTURES = (".png", ".svg")
SHOWN_AS_THEY_ARE = (".md", *PICTURES)


def main() -> None:
    """Copy the pages, add the sources that they link to, and build."""
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    shutil.copytree(CHECKOUT / "docs" / "assets", PAGES / "docs" / "assets")
    for file in (CHECKOUT / "docs").iterdir():
        if file.suffix in PICTURES:
            shutil.copy(file, PAGES / "docs")
    sources: set[Path] = set()
    for page in (page for where in ("", "docs", "configs") for page in (CHECKOUT / where).glob("*.md")):
        copy = PAGES / page.relative_to(CHECKOUT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(with_links_to_sources(page, sources), encoding="utf-8")
    for source in sources:
        add_source(source)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    sys.exit(subprocess.run(command, cwd=CHECKOUT, check=False).returncode)


def with_links_to_sources(page: Path, sources: set[Path]) -> str:
    """The text of a page, its links to files that the site would not show replaced by links to pages that do. Adds
    these files and folders to `sources`."""

    def replace(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / link["path"]))
        if not target.exists() or target.suffix in SHOWN_AS_THEY_ARE:
            return link["path"]
        sources.add(target)
        return f"{link['path'].rstrip('/')}.md"

    return LINK.sub(replace, page.read_text(encoding="utf-8"))


def add_source(source: Path) -> None:
    """A page with the text of a file, or the names of the files in a folder."""
    name = source.relative_to(CHECKOUT)
    if source.is_dir():
        files = sorted(file.name for file in source.iterdir() if not file.name.startswith(("_", ".")))
        text = "\n".join(f"* `{file}`" for file in files)
    else:
        language = {".py": "python", ".sh": "bash"}.get(source.suffix, source.suffix.lstrip("."))
        text = f"````{language}\n{source.read_text(encoding='utf-8')}````"
    page = PAGES / f"{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"# {name}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
