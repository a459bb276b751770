"""The environment of the peers: a folder beside the running environment, made at its first use.

Peers are installed without their dependencies. torchattacks pins an old requests and lucent an old kornia, and others
would bring a torch of their own: with dependencies they would change what lit_viz runs on, or be compared on another
torch. So they run on the torch that is here, and what they need besides is listed with them. The folder is looked
through last: nothing in it takes the place of what is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

#: What is compared; a wheel each.
PEERS = {"torchattacks": "3.5.1", "foolbox": "3.3.4", "torch-lucent": "0.1.8", "horama": "0.3.0"}
#: What they import that lit_viz does not depend on itself.
_NEEDED = ("eagerpy", "GitPython", "gitdb", "smmap", "kornia", "kornia_rs", "decorator", "einops")


def default_folder() -> Path:
    """Return the folder in the user's cache; one for each Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lit_viz" / f"peers-{sys.version_info.major}.{sys.version_info.minor}"


def use(folder: Path) -> None:
    """Let this process find the peers."""
    sys.path.append(str(folder))


def make(folder: Path) -> None:
    """Install what is missing and not found either where this process looks."""
    absent = missing(folder)
    if not absent:
        return
    print(f"installing into {folder}: {', '.join(absent)}", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*pip, *absent], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip told nothing"])[-1]
        sys.exit(
            f"benchmark: the peers could not be installed into {folder} ({reason}): connect to the package registry, "
            "or copy the folder from a machine that has it and give it by --peers."
        )


def missing(folder: Path) -> list[str]:
    """Return what is neither in the folder nor where this process looks."""
    path = [*sys.path, str(folder)]
    wanted = {**{name: f"{name}=={version}" for name, version in PEERS.items()}, **{name: name for name in _NEEDED}}
    return [said for name, said in wanted.items() if not any(metadata.distributions(name=name, path=path))]
