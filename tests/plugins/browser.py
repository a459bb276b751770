"""Fixtures for pages in a headless browser with a probe: a script that collects results in the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_BEFORE = """
const report = {errors: [], blocked: []};
addEventListener("error", (event) => report.errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => report.blocked.push(event.blockedURI));
addEventListener("load", () => {
"""
_AFTER = """
  const broken = [...document.images].filter((image) => !image.hidden && !image.naturalWidth);
  report.broken = broken.map((image) => image.src);
  report.wide = document.documentElement.scrollWidth > innerWidth;
  report.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(report);
  document.body.append(result);
});
"""


@pytest.fixture(scope="session")
def probe() -> Callable[..., str]:
    """Return a function for a script that runs ``body`` when a page is loaded and adds the object ``report`` to it."""

    def script(body: str = "") -> str:
        return _BEFORE + body + _AFTER

    return script


@pytest.fixture(scope="session")
def probe_page() -> Callable[[str, Path], Any]:
    """Return a function for the ``report`` of a page that contains a probe; skip the test without Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")

    def report(url: str, scratch: Path) -> Any:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        flags += [f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
        dom = subprocess.run([browser, *flags, url], capture_output=True, text=True, timeout=300, check=True).stdout
        result = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
        assert result is not None, dom[-500:]
        return json.loads(unescape(result[1]))

    return report
