"""The documentation as a site: built without warnings or broken links, and without requests to other sites."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        out / "trees",
        ROOT / "docs",
        out / "html",
    ]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-3000:]
    return out / "html"


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    names = {page: {unquote(found) for found in re.findall(r'\sid="([^"]+)"', text)} for page, text in pages.items()}
    lost = []
    for page, text in pages.items():
        for link in re.findall(r'\s(?:href|src)="([^"]+)"', text):
            path, _, place = unquote(link).partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.exists() or (place and place not in names.get(target, ())):
                lost.append(f"{page.name}: {link}")
    assert not lost
    assert len(pages) > 15


def test_the_index_is_the_readme_and_functions_are_described(site: Path) -> None:
    assert "A tarantula emerges" in (site / "index.html").read_text(encoding="utf-8")
    functions = (site / "api" / "functions.html").read_text(encoding="utf-8")
    for name in ("load_network", "visualize", "saliency", "attack", "resume", "check"):
        assert f'id="lit_viz.{name}"' in functions
    assert "Command: lit-viz visualize" in re.sub(r"<[^>]+>", "", (site / "configs.html").read_text(encoding="utf-8"))


def test_pages_load_nothing_from_other_sites(site: Path) -> None:
    calls = r"""<(?:script|img|iframe)[^>]+src="(https?:)?//|<link[^>]+href="(https?:)?//"""
    for page in site.rglob("*.html"):
        assert not re.search(calls, page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


@pytest.mark.parametrize("name", ["index.html", "read_a_map.html", "api/attacks.html"])
def test_a_page_in_a_browser(site: Path, tmp_path: Path, name: str, probe: Any, probe_page: Any) -> None:
    page = site / name
    probed = page.with_name(f"probed_{page.name}")
    probed.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head><script>{probe()}</script>"))
    output = probe_page(probed.as_uri(), tmp_path)
    probed.unlink()
    output["requests"] = [url for url in output["requests"] if not url.startswith(("data:", site.as_uri()))]
    assert output == {"errors": [], "blocked": [], "broken": [], "requests": [], "wide": False}
