"""What an installed copy needs is named in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
in_checkout = pytest.mark.skipif(not (ROOT / "lit_viz").is_dir(), reason="needs the sources of the package")


@in_checkout
def test_every_package_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared = set(re.findall(r'^    "(lit_viz[\w.]*)",$', text, re.MULTILINE))
    folders = set()
    for path in [*(ROOT / "lit_viz").rglob("*"), *(ROOT / "configs").rglob("*")]:
        if path.is_file() and path.suffix != ".pyc":
            folders.add(".".join(path.parent.relative_to(ROOT).parts).replace("configs", "lit_viz.configs"))
    assert declared == folders | {"lit_viz.configs"}
    code = {path.parent for path in (ROOT / "lit_viz").rglob("*.py")}
    assert [folder.name for folder in code if not (folder / "__init__.py").exists()] == []


@in_checkout
def test_every_data_file_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools.package-data]\n")[2].partition("\n\n")[0]
    declared = {
        path
        for package, patterns in re.findall(r'^"?([\w.]+)"? = \[(.*)\]$', text, re.MULTILINE)
        for pattern in re.findall(r'"([^"]+)"', patterns)
        for path in (ROOT / package.replace(".", "/").replace("lit_viz/configs", "configs")).glob(pattern)
    }
    data = {path for folder in ("lit_viz", "configs") for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert declared == {path for path in data if path.suffix not in (".py", ".pyc")}


def test_the_description_of_the_package_has_no_address_but_the_given_one() -> None:
    pytest.importorskip("setuptools")
    description = pytest.importorskip("setup").description  # not in a copy of the package and its tests

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    bare = description(readme, "", "1.0.0")
    assert re.findall(r"\]\((?!https://)", bare) == []
    assert "![" not in bare
    assert "*Class visualization on" not in bare
    full = description(readme, "https://host/lit_viz", "1.0.0")
    assert "\n![A tarantula emerges from noise](https://host/lit_viz/raw/v1.0.0/docs/images/tarantula.png)\n\n*" in full
    assert "(https://host/lit_viz/blob/v1.0.0/docs/attacks.md)" in full
    assert re.findall(r"\]\((?!https://)", full) == []


def test_the_readme_has_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in ("demo", "test"):
        assert re.search(rf"<!-- ci: {name} -->\n```bash\npython3 -m venv [^\n]+\n```", readme)
