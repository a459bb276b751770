"""What an installed copy needs is named in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


def test_the_readme_has_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in ("demo", "test"):
        assert re.search(rf"<!-- ci: {name} -->\n```bash\npython3 -m venv [^\n]+\n```", readme)
