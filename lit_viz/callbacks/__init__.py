"""What watches a run: Lightning callbacks that write observations and results to files, to W&B and to the terminal."""

from __future__ import annotations

from typing import Literal

#: How a run is logged to W&B. Here, since what parses it needs not wait for W&B to be imported.
WandbMode = Literal["auto", "online", "offline", "disabled"]
