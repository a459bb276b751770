"""Start-up time: packages are imported on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.marks import slow

ROOT = Path(__file__).parents[1]
_PARSING = """
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.commands import parse_method
import lit_viz.api, lit_viz.launch.execute
values = parse_method(METHODS["attack"], ["packaged:chelsea", "--config", "pgd_linf", "--eps", "1/255"])
method_form(METHODS["attack"], values).options()
"""
_CLASSES = "from lit_viz.cli import main; main(['classes', 'tarant'])"
_OWN = "from lit_viz import load_network; load_network('tests.support.start_network:build', size=8).fast()"


_HEAVY = "pytorch_lightning matplotlib captum skimage sklearn timm wandb"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lit_viz.cli; lit_viz.cli.main(['--help'])", f"torch docstring_parser rich yaml numpy {_HEAVY}"),
        (
            "import lit_viz.cli; lit_viz.cli.main(['attack', '--help'])",
            f"torch docstring_parser rich yaml numpy {_HEAVY}",
        ),
        slow(_CLASSES, _HEAVY),
        slow(_OWN, f"torchvision {_HEAVY}"),
        # Lightning itself imports torchvision and matplotlib.
        slow(_PARSING, "timm wandb captum skimage sklearn"),
    ],
    ids=["help", "help of a method", "classes", "own network", "parsing"],
)
def test_unused_packages_are_not_imported(code: str, absent: str) -> None:
    code = f"import sys\n{code}\nprint('imported:', *(name for name in {absent.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["imported:"], done.stdout + done.stderr


@pytest.mark.parametrize("has_triton", [True, slow(False)])
def test_garbage_collection_around_imports(has_triton: bool) -> None:
    """It is off during imports. Imported objects are frozen, until the exit if Triton would list them."""
    code = "import atexit, gc, sys, types, lit_viz.cli as c\n"
    code += "atexit.register(lambda: print('frozen:', gc.get_freeze_count()))\n"  # after what is registered later
    code += "with c._gc_paused(): import torch; assert not gc.isenabled()\n"
    code += "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
    code += "with c._gc_paused(): assert gc.isenabled()\n"
    code += "sys.modules['triton'] = types.ModuleType('triton')" if has_triton else "sys.modules.pop('triton', None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (done.stdout.strip() == "frozen: 0") == has_triton
