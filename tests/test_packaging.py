"""What an installed copy needs is named in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared = set(re.findall(r'^    "(lit_viz[\w.]*)",$', text, re.MULTILINE))
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lit_viz").rglob("__init__.py")}
    assert declared == found | {"lit_viz.configs"}


def test_the_readme_has_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in ("demo", "test"):
        assert re.search(rf"<!-- ci: {name} -->\n```bash\npython3 -m venv [^\n]+\n```", readme)
