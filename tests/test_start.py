"""What a start waits for: packages are imported where something of theirs is wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_PARSING = """
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.config import MethodCLI, config_argument
import lit_viz.api, lit_viz.launch.execute
config = config_argument("attack", "pgd_linf")
MethodCLI(COMMANDS["attack"], ["--config", config, "--photographs", "['packaged:chelsea']"])
"""
_CLASSES = "from lit_viz.cli.main import main; main(['classes', 'tarant'])"
_OWN = "from lit_viz import load_classifier; load_classifier('tests.start_network:build', size=8).fast()"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lit_viz.cli.main", "torch jsonargparse rich yaml numpy"),
        ("import lit_viz.cli.main; lit_viz.cli.main.main(['--help'])", "torch jsonargparse rich yaml numpy"),
        (_CLASSES, "pytorch_lightning timm wandb matplotlib captum skimage sklearn"),
        (_OWN, "pytorch_lightning timm torchvision wandb matplotlib captum skimage sklearn"),
        (_PARSING, "timm wandb captum skimage sklearn"),  # Lightning itself imports torchvision and matplotlib
    ],
    ids=["import", "help", "classes", "own network", "parsing"],
)
def test_nothing_is_imported_that_is_not_used(code: str, absent: str) -> None:
    there = f"import sys\n{code}\nprint('there:', *(name for name in {absent.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", there], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["there:"], done.stdout + done.stderr


def test_garbage_is_collected_again_after_the_imports() -> None:
    code = "import gc, lit_viz.cli.main as c\nwith c._gc_paused(): import torch; assert not gc.isenabled()\n"
    code += "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
    code += "with c._gc_paused(): assert gc.isenabled()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("there", [True, False])
def test_frozen_objects_are_given_back_at_the_end_only_where_triton_would_list_them(there: bool) -> None:
    code = "import atexit, gc, sys, types, lit_viz.cli.main as c\n"
    code += "atexit.register(lambda: print('frozen:', gc.get_freeze_count()))\n"  # after what is registered later
    code += "with c._gc_paused(): import torch\n"
    code += "sys.modules['triton'] = types.ModuleType('triton')" if there else "sys.modules.pop('triton', None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (done.stdout.strip() == "frozen: 0") == there
