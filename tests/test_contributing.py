"""The lists of CONTRIBUTING.md, "One image from file to evidence": traced on one attacked image and one class image."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import pytorch_lightning as pl

import lit_viz as lv
from lit_viz.networks import Network

PACKAGE = f"{Path(lv.__file__).parent}/"
PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(engine/step\.py .*?)```", PAGE, re.DOTALL)
#: What every step uses, and what follows the record.
OTHERS = ("__init__", "networks/", "errors", "evidence/", "figures/", "presentations/", "rng", "types", "utils/")


class Trace:
    """Files of the package in the order of their first call, those of the main thread first.

    From the first filled slot to the report.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.main: dict[str, None] = {}
        self.threads: dict[str, None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(PACKAGE) or not file.endswith(".py"):
            return
        name = file.removeprefix(PACKAGE)
        if name == "engine/step.py" and frame.f_code.co_name == "_start":
            self.is_on = True
        if name.startswith("report/"):
            self.is_on = False
        is_listed = not name.startswith(OTHERS) and not name.endswith("__init__.py")
        if self.is_on and is_listed and not frame.f_code.co_name.startswith("<"):
            is_main = threading.current_thread() is threading.main_thread()
            (self.main if is_main else self.threads).setdefault(name)

    @property
    def files(self) -> list[str]:
        return list(self.main | self.threads)


@contextmanager
def traced() -> Iterator[Trace]:
    trace, before = Trace(), sys.getprofile()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


@pytest.mark.parametrize("number", [0, 1], ids=["attack", "class image"])
def test_the_files_of_an_image_are_listed_in_order(number: int, smooth: Network, tmp_path: Path) -> None:
    module: Any = lv.AdversarialExample(smooth, iterations=2)
    tasks: lv.TaskQueue = lv.ImageTasks(smooth, "packaged:chelsea", target=2)
    if number == 1:
        module, tasks = lv.ClassVisualization(smooth, iterations=2), lv.ClassTasks(smooth, [1])
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    folder = lv.callbacks.RunFolder(tmp_path / "run")
    trainer = pl.Trainer(**settings, callbacks=[folder], max_epochs=1, accelerator="cpu")
    with traced() as trace:
        trainer.fit(module, tasks)
    print("\n".join(trace.files))  # for the page
    assert [line.split()[0] for line in BLOCKS[number].splitlines()] == trace.files
