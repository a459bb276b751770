"""The documentation as a site: pip install -e '.[docs]' && sphinx-build -W docs build/site

Pages are the Markdown files of docs/. Some of them only link to a file of the repository, which is inserted here:
README.md (index.md), CHANGELOG.md, CONTRIBUTING.md, and all configurations (configs.md).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import lit_viz

ROOT = Path(__file__).parents[1]

project = "lit_viz"
version = release = lit_viz.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["images", "paper.md"]

html_theme = "furo"
html_title = "lit_viz"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_member_order = "groupwise"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False

#: Files of the repository outside docs/ that have a page.
_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)([^)\s]*)\)")


def setup(app: Any) -> None:
    """Register the functions that edit pages and docstrings before they are parsed."""
    app.connect("source-read", _filled)
    app.connect("autodoc-process-docstring", _without_type, priority=0)


def _without_type(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Prevent napoleon from parsing the text before the first colon of an attribute's sentence as its type."""
    if what in ("attribute", "data"):
        lines.insert(0, "")


def _filled(app: Any, page: str, source: list[str]) -> None:
    """Insert the file of a page, and replace links to files of the repository by links to their pages."""
    file = next((name for name, of in _PAGES.items() if of == f"{page}.md"), None)
    if page == "configs":
        source[0] = _configurations()
    elif file is not None:
        _, mark, rest = source[0].partition("```{toctree}")  # index.md ends with the table of contents
        source[0] = f"{(ROOT / file).read_text(encoding='utf-8')}\n{mark}{rest}"
    folder = "" if file is not None else posixpath.dirname(f"docs/{page}")
    source[0] = _LINK.sub(lambda link: f"]({_target(posixpath.join(folder, link[1]))}{link[2]})", source[0])


def _target(path: str) -> str:
    """Return the link to a file of the repository in the site, valid on any page."""
    to = posixpath.normpath(path)
    if to == "configs":
        return "/configs.md"
    if to.startswith("configs/"):
        return f"#{to.removesuffix('.yaml').replace('/', '-')}"
    return f"/{_PAGES.get(to) or to.removeprefix('docs/')}"  # the strict build rejects links to other files


def _configurations() -> str:
    parts = ["# Configurations", "The header of each file gives its content, source, cost and command."]
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir()):
        parts.append(f"(configs-{folder.name})=\n## {folder.name}")
        for file in sorted(folder.glob("*.yaml")):
            target = f"(configs-{folder.name}-{file.stem})=\n### {file.stem}"
            parts.append(f"{target}\n\n```yaml\n{file.read_text(encoding='utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
