"""``lit-viz saliency``: which pixels decide."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.attributions import METHODS, Attribution, name_of
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.launch.commands.base import class_path
from lit_viz.launch.commands.photographs import PhotographCommand, add_photograph_arguments
from lit_viz.localization.localization import import_opencv
from lit_viz.methods import SaliencyMap
from lit_viz.presentations.base import Presentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation, reference_boxes
from lit_viz.types import Task


class Saliency(PhotographCommand):
    """Saliency maps of photographs, checked by Captum."""

    name: ClassVar[str] = "saliency"
    module: ClassVar[type[ImageTraining]] = SaliencyMap
    default_config: ClassVar[str] = "gradient"
    shorts: ClassVar[str] = (
        f"--method NAME is one, or several with commas, of {', '.join(METHODS)}; --method.OPTION VALUE is its own "
        "(--method.sigma 0.2); --tolerance 0.02, --reducer and --batch go with any."
    )
    example: ClassVar[str] = "lit-viz saliency packaged:chelsea --method smoothgrad"
    flags: ClassVar[tuple[str, ...]] = ("--overlays", "--localize")
    changeable: ClassVar[tuple[str, ...]] = ("check",)
    evidence_options: ClassVar[tuple[str, ...]] = ("faithfulness",)
    demo: ClassVar[tuple[str, ...]] = (
        "packaged:chelsea",
        "packaged:coffee",
        "packaged:rocket",
        "--config",
        "compare_methods",
    )
    target: ClassVar[Literal["label", "none"]] = "label"
    curve_at: ClassVar[str] = "geometric"

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add options of photographs, targets, labels, the display of maps, reference boxes and the Captum check."""
        add_photograph_arguments(parser)
        add = parser.add_argument
        add("--scale", type=Literal["shared", "map"], default="shared", help="of the figure's colours")
        add("--overlays", action="store_true", help="shows the maps over the photographs, too")
        add("--check", type=Literal["captum", "none"], default="captum", help="what maps are held against")
        add("--localize", action="store_true", help="also find the object: its box and mask, by a graph cut")
        add(
            "--boxes",
            type=str | None,
            default=None,
            help="reference boxes by file name of the photograph, compared with the boxes of the maps: Pascal VOC (a "
            "file or a folder) or COCO",
        )

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Turn ``--method smoothgrad`` into the class it stands for, and ``--tolerance`` into the module's option."""
        if name == "--method":
            paths = class_paths(value)
            return "--model.method", paths[0]["class_path"] if len(paths) == 1 else json.dumps(paths)
        short = name.startswith("--method.") or name in ("--tolerance", "--reducer", "--batch")
        return (f"--model.{name[2:]}" if short else name), value

    def check(self, config: Namespace) -> None:
        """Validate the photographs, and the requirements of localization."""
        super().check(config)
        if reference_boxes(config) is not None:
            import_opencv()

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a method, photograph and target; the methods one after another."""
        return self.queue(config, classifier, [{"method": name_of(method)} for method in _listed(parts["method"])])

    def presentation(self, config: Namespace) -> Presentation:
        """Return the presentation of saliency maps."""
        return SaliencyMapPresentation()


def _listed(method: Any) -> list[Attribution]:
    return list(method) if isinstance(method, (list, tuple)) else [method]


def class_paths(methods: str | Sequence[str] | Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return saliency methods as class paths and arguments.

    Args:
        methods: ``gradient`` or ``gradient,smoothgrad``, a list of such names, or names with their arguments.

    Raises:
        LitVizError: no method has this name; the message lists the names.
    """
    named = methods.split(",") if isinstance(methods, str) else methods
    names: Any = named if isinstance(named, (Mapping, list, tuple)) else [named]
    paths: list[dict[str, Any]] = [{"class_path": class_path(name, METHODS, "saliency method")} for name in names]
    if isinstance(methods, Mapping):
        for one, arguments in zip(paths, methods.values(), strict=True):
            one["init_args"] = dict(arguments or {})
    return paths
