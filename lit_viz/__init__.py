"""lit_viz: see what a vision network has learned by optimizing the input image against the frozen network.

Example:
    >>> import lit_viz as lv
    >>> net = lv.load_network("efficientnet_lite0")
    >>> run = lv.visualize(net, ["tarantula", "goldfish"], iterations=200)  # doctest: +SKIP
    >>> run.images.shape  # doctest: +SKIP
    torch.Size([2, 3, 224, 224])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_viz._version import __version__

if TYPE_CHECKING:
    from lit_viz import attacks, attributions, callbacks, functional, images, objectives, optim, outputs, zoo
    from lit_viz.api import attack, check, compare, log, merge, read, resume, run, saliency, visualize
    from lit_viz.callbacks.probe import Probe
    from lit_viz.engine.queue import TaskQueue
    from lit_viz.errors import LitVizError
    from lit_viz.launch.comparison import Comparison
    from lit_viz.launch.run import Run
    from lit_viz.loggers.base import LoggerSettings
    from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap, UniversalPerturbation
    from lit_viz.methods.recipes import PictureOptions
    from lit_viz.methods.tasks import ClassTasks, ImageTasks, LayerTasks
    from lit_viz.networks import Network
    from lit_viz.outputs import load_network
    from lit_viz.runs.results import Outcome
    from lit_viz.types import Record, Task
    from lit_viz.units import Microscope, microscope

# Modules of the public names; imported on first use, so that the help of the command line does not import torch.
_MODULES = {
    "lit_viz.api": ("attack", "check", "compare", "log", "merge", "read", "resume", "run", "saliency", "visualize"),
    "lit_viz.callbacks.probe": ("Probe",),
    "lit_viz.errors": ("LitVizError",),
    "lit_viz.engine.queue": ("TaskQueue",),
    "lit_viz.launch.comparison": ("Comparison",),
    "lit_viz.launch.run": ("Run",),
    "lit_viz.loggers.base": ("LoggerSettings",),
    "lit_viz.methods": ("AdversarialExample", "ClassVisualization", "SaliencyMap", "UniversalPerturbation"),
    "lit_viz.methods.recipes": ("PictureOptions",),
    "lit_viz.methods.tasks": ("ClassTasks", "ImageTasks", "LayerTasks"),
    "lit_viz.networks": ("Network",),
    "lit_viz.outputs": ("load_network",),
    "lit_viz.runs.results": ("Outcome",),
    "lit_viz.runs.records": ("Record",),  # with the kinds of records that Record.read makes
    "lit_viz.types": ("Task",),
    "lit_viz.units": ("Microscope", "microscope"),
}

# Modules with the parts of methods, such as ``lv.attacks.PGD``; imported on first use too.
_PARTS = ("attacks", "attributions", "callbacks", "functional", "images", "objectives", "optim", "outputs", "zoo")

__all__ = [
    "AdversarialExample",
    "ClassTasks",
    "ClassVisualization",
    "Comparison",
    "ImageTasks",
    "LayerTasks",
    "LitVizError",
    "LoggerSettings",
    "Microscope",
    "Network",
    "Outcome",
    "PictureOptions",
    "Probe",
    "Record",
    "Run",
    "SaliencyMap",
    "Task",
    "TaskQueue",
    "UniversalPerturbation",
    "__version__",
    "attack",
    "attacks",
    "attributions",
    "callbacks",
    "check",
    "compare",
    "functional",
    "images",
    "load_network",
    "log",
    "merge",
    "microscope",
    "objectives",
    "optim",
    "outputs",
    "read",
    "resume",
    "run",
    "saliency",
    "visualize",
    "zoo",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _PARTS:
        return import_module(f"lit_viz.{name}")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    hint = ""
    if name[:1].isupper():
        for part in _PARTS:
            if name in getattr(import_module(f"lit_viz.{part}"), "__all__", ()):
                hint = f": use lv.{part}.{name}"
    raise AttributeError(f"module 'lit_viz' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return list(__all__)
