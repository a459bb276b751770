"""``lit-viz saliency``: saliency maps of photographs."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from jsonargparse import ArgumentParser, Namespace

from lit_viz.attributions import ATTRIBUTIONS, Attribution, Gradient
from lit_viz.errors import LitVizError
from lit_viz.figures.scales import ScaleOf
from lit_viz.launch.commands.base import PhotographCommand, class_paths
from lit_viz.localization import import_opencv
from lit_viz.methods import SaliencyMap
from lit_viz.presentations import EvidenceOptions
from lit_viz.presentations.saliency_map import reference_boxes


class SaliencyOptions:
    """Options of the method that the command line reads as classes.

    Args:
        method: attribution method or methods.
    """

    def __init__(self, method: Attribution | list[Attribution] = Gradient()) -> None:  # noqa: B008 - a default to parse
        self.method = method


class SaliencyCommand(PhotographCommand):
    """Saliency maps of photographs, cross-checked with Captum."""

    name = "saliency"
    module = SaliencyMap
    flat = (SaliencyOptions,)
    default_config = "gradient"
    shorts = (
        f"--method NAME is one or several, with commas, of {', '.join(ATTRIBUTIONS)}; --method.OPTION VALUE is an option of "
        "the method (--method.sigma 0.2), --method.NAME.OPTION VALUE of one of several; --tolerance 0.5, --reducer, "
        "--batch and --gamma apply to all. Which method: docs/which_map.md."
    )
    example = "lit-viz saliency packaged:chelsea --method smoothgrad"
    short: ClassVar = {f"--{name}": f"--model.{name}" for name in ("method", "tolerance", "reducer", "batch", "gamma")}
    flags = ("--overlays", "--localize")
    listed: ClassVar = {"method": ATTRIBUTIONS}
    demo = (
        "packaged:chelsea", "packaged:coffee", "packaged:rocket", "--config", "compare_methods",
        "--method.occlusion.window", "48", "--method.occlusion.stride", "24",  # half of the configuration's forwards
    )  # fmt: skip
    curve_at = "geometric"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add = parser.add_argument
        against_help = "class that the target is contrasted with, runner-up, or a CSV file (file,against)"
        add("--against", type=str | int | None, default=None, help=against_help)
        add("--scale", type=ScaleOf, default="shared", help="color scale of the figure")
        add("--overlays", action="store_true", help="also draw the maps over the photographs")
        add(
            "--check",
            type=Literal["auto", "captum", "none"],
            default="captum",
            help="compare maps with Captum: captum, auto (for as long as the run took), or none",
        )
        add("--localize", action="store_true", help="also compute the object's box and mask, by a graph cut")
        add(
            "--boxes",
            type=str | None,
            default=None,
            help="reference boxes by file name of the photograph, compared with the boxes of the maps: Pascal VOC (a "
            "file or a folder) or COCO",
        )

    def option(self, name: str, value: str) -> tuple[str, str]:
        if name != "--method":
            return name, value
        paths = class_paths(value, ATTRIBUTIONS, "saliency method")
        return name, paths[0]["class_path"] if len(paths) == 1 else json.dumps(paths)

    def check(self, config: Namespace) -> None:
        super().check(config)
        targets = config.target if isinstance(config.target, list) else [config.target]
        if "none" in targets:
            raise LitVizError("target of a saliency map must be a class, got none: leave it out for the label")
        if reference_boxes(EvidenceOptions(localize=config.localize, boxes=config.boxes)) is not None:
            import_opencv()
