"""Run the fast tests with the lowest and the newest versions of the requirements.

python scripts/versions.py lowest              # lowest versions of pyproject.toml, Python 3.10
python scripts/versions.py newest              # newest versions, Python 3.13
python scripts/versions.py lowest --write      # adds the result to the table of CONTRIBUTING.md
python scripts/versions.py lowest -- tests/optim -x

Requires uv. Each set has an environment in build/versions, which is made anew. Requirements of requirements have any
version that fits. Warnings are no errors: those of old packages are none of lit_viz.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Python version and resolution of uv, by the name of the set.
SETS = {"lowest": ("3.10", "lowest-direct"), "newest": ("3.13", "highest")}
#: Packages whose versions the table states.
SHOWN = ("torch", "torchvision", "pytorch-lightning", "captum", "wandb", "timm", "numpy", "matplotlib", "pillow")
TABLE = "<!-- versions -->"


def main() -> None:
    options = parsed(sys.argv[1:])
    python, resolution = SETS[options.set]
    if options.python:
        python = options.python
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("versions: uv is not installed: pip install uv")
    folder = ROOT / "build" / "versions" / options.set
    run(uv, "venv", "--seed", "--clear", "--python", python, folder)
    interpreter = folder / "bin" / "python"
    run(uv, "pip", "install", "--python", interpreter, "--resolution", resolution, "-e", f"{ROOT}[test]")
    versions = installed(uv, interpreter)
    print(", ".join(f"{name} {versions.get(name, '-')}" for name in SHOWN), flush=True)
    command = [interpreter, "-m", "pytest", "-q", "-W", "default", *options.tests]
    tests = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    print(tests.stdout)
    summary = re.findall(r"(\d+ (?:passed|failed|errors?|skipped))", tests.stdout.splitlines()[-1])
    if options.write:
        write_row(options.set, python, versions, ", ".join(summary))
    sys.exit(tests.returncode)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--python", help="version of Python or path of an interpreter")
    parser.add_argument("--write", action="store_true", help="add the result to the table of CONTRIBUTING.md")
    parser.add_argument("tests", nargs="*", help="arguments of pytest, after --")
    return parser.parse_args(arguments)


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
