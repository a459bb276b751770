"""The packages that lit_viz is compared with, in a folder of the user's cache.

They are installed without dependencies: torchattacks pins an old requests, lucent an old kornia, and others another
torch. So they run on the torch of this environment, and their other imports are listed here. The folder is the last
entry of the search path, so that it replaces no installed package.

    python tests/support/environment.py    # install what is missing
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

#: Packages that are compared.
PEERS = {
    "torchattacks": "3.5.1",
    "foolbox": "3.3.4",
    "torch-lucent": "0.1.8",
    "horama": "0.3.0",
    "grad-cam": "1.5.7",
    "shapiq": "1.4.1",
}
#: Their imports that lit_viz does not require, with those of its tests.
_NEEDED = (
    *("eagerpy", "GitPython", "gitdb", "smmap"),  # Foolbox
    *("kornia", "kornia_rs", "decorator", "einops"),  # lucent and Horama
    *("ipython", "ipython-pygments-lexers", "jedi", "parso", "matplotlib-inline", "prompt_toolkit"),  # lucent
    *("wcwidth", "stack_data", "executing", "asttokens", "pure_eval", "traitlets", "pexpect", "ptyprocess"),  # IPython
    *("ttach", "scikit-learn", "joblib", "threadpoolctl", "opencv-python-headless"),  # grad-cam
    *("cloudpickle", "colour", "galois", "llvmlite", "networkx", "numba", "sparse-transform", "tqdm"),  # shapiq
)


def default_folder() -> Path:
    """Return the folder in the user's cache; one for each Python version."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lit_viz" / f"peers-{sys.version_info.major}.{sys.version_info.minor}"


def use(folder: Path) -> None:
    """Add the folder to the search path of this process."""
    sys.path.append(str(folder))


def patch_kornia() -> None:
    """Restore two functions that kornia has moved since lucent was published."""
    import kornia
    from kornia.geometry import transform

    kornia.get_rotation_matrix2d, kornia.warp_affine = transform.get_rotation_matrix2d, transform.warp_affine


def make(folder: Path) -> None:
    """Install the missing packages into the folder."""
    absent = missing(folder)
    if not absent:
        return
    print(f"installing into {folder}: {', '.join(absent)}", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*pip, *absent], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message of pip"])[-1]
        sys.exit(
            f"benchmark: the peers could not be installed into {folder} ({reason}): connect to the package registry, "
            "or copy the folder from another machine and give it by --peers."
        )


def missing(folder: Path) -> list[str]:
    """Return the requirements that are neither in the folder nor on the search path."""
    path = [*sys.path, str(folder)]
    absent = []
    for name in (*PEERS, *_NEEDED):
        if not any(metadata.distributions(name=name, path=path)):
            absent.append(f"{name}=={PEERS[name]}" if name in PEERS else name)
    return absent


if __name__ == "__main__":
    make(default_folder())
