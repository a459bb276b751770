"""The description of the package: README.md with the addresses of the project.

LIT_VIZ_URL is the address of the repository, as https://HOST/OWNER/NAME. Without it, the description has no pictures
and no list of pages, and its links to files of the repository are plain text.
"""

import os
import re
from pathlib import Path

from setuptools import setup

#: ``![text](path)``, its caption, and ``[text](path)``, where the path is a file of the repository.
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)(\n\n\*.+\*\n\n)?")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://)([^)\s]+)\)")


def description(readme: str, url: str, version: str) -> str:
    """Return README.md with absolute addresses, or without pictures and links to files."""
    if not url:
        readme = PICTURE.sub("", readme).partition("## Further reading")[0]
        return LINK.sub(r"\1", readme)
    readme = PICTURE.sub(rf"![\1]({url}/raw/v{version}/\2)\3", readme)
    return LINK.sub(rf"[\1]({url}/blob/v{version}/\2)", readme)


def main() -> None:
    """Build the package with the description."""
    root = Path(__file__).parent
    version = (root / "lit_viz" / "_version.py").read_text().split('"')[-2]
    url = os.environ.get("LIT_VIZ_URL", "").rstrip("/")
    readme = (root / "README.md").read_text(encoding="utf-8")
    options = {"project_urls": {"Repository": url, "Documentation": f"{url}/tree/v{version}/docs"}} if url else {}
    setup(
        long_description=description(readme, url, version),
        long_description_content_type="text/markdown",
        **options,
    )


if __name__ == "__main__":
    main()
