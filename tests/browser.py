"""Pages in a headless browser with a probe: a script that collects results in the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

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


def probe(body: str = "") -> str:
    """Return a script that runs ``body`` when the page is loaded and adds the object ``report`` to the page."""
    return _BEFORE + body + _AFTER


def probe_page(url: str, scratch: Path) -> Any:
    """Return the ``report`` of a page that contains a probe."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([str(BROWSER), *flags, url], capture_output=True, text=True, timeout=120, check=True).stdout
    result = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert result is not None, dom[-500:]
    return json.loads(unescape(result[1]))
