"""Scripts, run as users run them."""

from __future__ import annotations

import subprocess
import sys

from tests.support.ranks import ROOT, environment


def run_script(name: str, *words: object, expect: int = 0) -> str:
    """Run a script from the root of the project with one thread; return stdout, or stderr of one that has to fail."""
    command = [sys.executable, f"scripts/{name}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stderr if expect else done.stdout
