"""Run the fast tests with the lowest and the newest versions of the requirements.

python scripts/versions.py lowest                           # lowest versions of pyproject.toml, Python 3.10
python scripts/versions.py newest                           # newest versions, Python 3.13
python scripts/versions.py newest --go-on                   # the parts without a result, after a stop
python scripts/versions.py lowest tests/optim --go-on       # a part again
python scripts/versions.py lowest --go-on --write           # write the results into the table of CONTRIBUTING.md

A part is a folder or file in tests. Requires uv. Each set has an environment and a file of results in build/versions,
which are deleted first without --go-on. Requirements of requirements have any version that fits. Warnings are no
errors, since old packages raise them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Python version and resolution of uv, by the name of the set.
SETS = {"lowest": ("3.10", "lowest-direct"), "newest": ("3.13", "highest")}
#: Packages whose versions the table states.
SHOWN = ("torch", "torchvision", "pytorch-lightning", "captum", "wandb", "timm", "numpy", "matplotlib", "pillow")
TABLE = "<!-- versions -->"
#: Outcomes of pytest that fail a set.
FAILURES = ("failed", "errors")
OUTCOMES = ("passed", "skipped", *FAILURES)
#: Exit status of pytest for a part of which all tests are slow.
NO_TESTS = 5


def main() -> None:
    options = parsed(sys.argv[1:])
    python, resolution = SETS[options.set]
    if options.python:
        python = options.python
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("versions: uv is not installed: pip install uv")
    folder = ROOT / "build" / "versions" / options.set
    interpreter = folder / "bin" / "python"
    results = Results(folder.with_suffix(".json"))
    if not options.go_on:
        run(uv, "venv", "--seed", "--clear", "--python", python, folder)
        run(uv, "pip", "install", "--python", interpreter, "--resolution", resolution, "-e", f"{ROOT}[test]")
        results.clear()
    versions = installed(uv, interpreter)
    print(", ".join(f"{name} {versions.get(name, '-')}" for name in SHOWN), flush=True)
    for part in options.parts or results.missing():
        results.add(part, tested(interpreter, part))
    print(results.summary())
    if options.write:
        write_row(options.set, python, versions, results.summary())
    sys.exit(bool(results.failed()))


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("parts", nargs="*", help="folders or files of tests; by default all without a result")
    parser.add_argument("--python", help="version of Python or path of an interpreter")
    parser.add_argument("--go-on", action="store_true", help="keep the environment and the results of earlier calls")
    parser.add_argument("--write", action="store_true", help="write the results into the table of CONTRIBUTING.md")
    return parser.parse_args(arguments)


def all_parts() -> list[str]:
    """Return the folders and files of tests."""
    parts = set()
    for path in ROOT.glob("tests/**/test_*.py"):
        parts.add("/".join(path.relative_to(ROOT).parts[:2]))
    return sorted(parts)


def tested(interpreter: Path, part: str) -> dict[str, int]:
    """Run the tests of a part; return the numbers of ``passed``, ``skipped``, ``failed`` and ``errors``."""
    command = [interpreter, "-m", "pytest", "-q", "-W", "default", part]
    tests = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    last_line = (tests.stdout.splitlines() or [""])[-1]
    counts = {}
    for number, outcome in re.findall(r"(\d+) (passed|skipped|failed|errors?)\b", last_line):
        counts[outcome if outcome != "error" else "errors"] = int(number)
    if tests.returncode not in (0, NO_TESTS) and not counts.keys() & set(FAILURES):
        counts["errors"] = 1  # pytest itself failed
    if counts.keys() & set(FAILURES):
        print(tests.stdout)
    print(f"{part}: {last_line}", flush=True)
    return counts


class Results:
    """The numbers of passed, skipped and failed tests by part, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, dict[str, int]] = json.loads(path.read_text()) if path.is_file() else {}

    def clear(self) -> None:
        self.counts = {}
        self.path.unlink(missing_ok=True)

    def add(self, part: str, counts: dict[str, int]) -> None:
        self.counts[part] = counts
        self.path.write_text(json.dumps(self.counts, indent=1))

    def missing(self) -> list[str]:
        return [part for part in all_parts() if part not in self.counts]

    def failed(self) -> list[str]:
        return [part for part, counts in self.counts.items() if counts.keys() & set(FAILURES)]

    def summary(self) -> str:
        """Return the numbers of all parts, the parts with failures, and those without a result."""
        total: Counter[str] = Counter()
        for counts in self.counts.values():
            total.update(counts)
        summary = ", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES if total[outcome])
        if self.failed():
            summary += f" ({', '.join(self.failed())})"
        if self.missing():
            summary += f"; not run: {', '.join(self.missing())}"
        return summary


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        sys.exit(f"versions: failed: {' '.join(str(part) for part in command)}")


def installed(uv: str, interpreter: Path) -> dict[str, str]:
    """Return the version of each installed package."""
    listed = subprocess.run(
        [uv, "pip", "list", "--python", interpreter, "--format", "json"], check=True, text=True, stdout=subprocess.PIPE
    )
    return {package["name"]: package["version"] for package in json.loads(listed.stdout)}


def write_row(name: str, python: str, versions: dict[str, str], summary: str) -> None:
    """Replace the row of a set in the table."""
    path = ROOT / "CONTRIBUTING.md"
    cells = [name, python, *(versions.get(package, "-") for package in SHOWN), summary, f"{datetime.date.today()}"]
    row = f"| {' | '.join(cells)} |"
    lines = path.read_text().splitlines()
    first = lines.index(TABLE) + 2  # after the marker and an empty line: header, rule, rows
    rows = [line for line in lines if line.startswith(f"| {name} |")]
    if rows:
        lines[lines.index(rows[0])] = row
    else:
        lines.insert(first + 2, row)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
