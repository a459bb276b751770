"""HTML pages from the templates of a package."""

from __future__ import annotations

from typing import Any

import jinja2


def page_environment(package: str, **options: Any) -> jinja2.Environment:
    """Return the environment of the templates in a package: values are escaped, and an undefined one is an error.

    Args:
        package: name of the package with the folder ``templates``.
        options: other arguments of ``jinja2.Environment``.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
