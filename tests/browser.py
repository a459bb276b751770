"""Pages in a headless browser, which tells what a probe, a script in the page, has found."""

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

# What a probe begins and ends with: it fills `told`.
_BEGIN = """
const told = {errors: [], blocked: []};
addEventListener("error", (event) => told.errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => told.blocked.push(event.blockedURI));
addEventListener("load", () => {
"""
_END = """
  told.broken = [...document.images].filter((image) => !image.hidden && !image.naturalWidth).map((image) => image.src);
  told.wide = document.documentElement.scrollWidth > innerWidth;
  told.asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  const result = document.createElement("pre");
  result.id = "told";
  result.textContent = JSON.stringify(told);
  document.body.append(result);
});
"""


def probe(body: str = "") -> str:
    """Return a script that runs ``body`` when the page is loaded, and writes what was found into the page."""
    return _BEGIN + body + _END


def told_by(page: str, scratch: Path) -> Any:
    """Return what the probe in the page at an address has told."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([str(BROWSER), *flags, page], capture_output=True, text=True, timeout=120, check=True).stdout
    told = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert told is not None, dom[-500:]
    return json.loads(unescape(told[1]))
