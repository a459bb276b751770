"""``lit-viz saliency``: which pixels decide."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.attributions import METHODS, Attribution, name_of, title_of
from lit_viz.classifiers import Classifier
from lit_viz.engine.method import half_precision
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.saliency.evaluation import evaluate_maps
from lit_viz.figures.saliency import MOST, SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.launch.commands.base import Inquiry, class_path, shown_number
from lit_viz.launch.commands.photographs import PhotographCommand, add_photograph_arguments
from lit_viz.localization.localization import localize_run
from lit_viz.localization.reference_boxes import ReferenceBoxes, match, read_boxes
from lit_viz.localization.segmentation import opencv
from lit_viz.methods import SaliencyMap
from lit_viz.runs.results import Outcome
from lit_viz.runs.writer import RunFolder
from lit_viz.types import Task
from lit_viz.utils.formatting import pluralize, probability_text


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
        """Add photographs, targets and labels, how maps are drawn, true boxes, and whether Captum is asked."""
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
            help="true boxes, by their photograph's file name, which the found ones are held against: Pascal VOC (a "
            "file or a folder) or COCO",
        )

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Turn ``--method smoothgrad`` into the class it stands for, and ``--tolerance`` into the module's option."""
        if name == "--method":
            found = class_paths(value)
            return "--model.method", found[0]["class_path"] if len(found) == 1 else json.dumps(found)
        short = name.startswith("--method.") or name in ("--tolerance", "--reducer", "--batch")
        return (f"--model.{name[2:]}" if short else name), value

    def check(self, config: Namespace) -> None:
        """Refuse a run without photographs, or without what boxes are found by and held against."""
        super().check(config)
        if _true_boxes(config) is not None:
            opencv()

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a method, photograph and target; the methods one after another."""
        return self.queue(config, classifier, [{"method": name_of(method)} for method in _listed(parts["method"])])

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return the photographs over their maps, or beside them where there are several methods."""
        groups = _grouped(outcomes)
        shown = panels(groups[:MOST])
        reducers = {title_of(o.record["method"]): o.record["reducer"] for o in outcomes if "reducer" in o.record}
        return saliency_figure(shown, reducers, scale=config.scale, overlays=config.overlays, total=len(groups))

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry
    ) -> bool:
        """Hold maps against Captum's, and their boxes against true ones where these are wanted."""
        assert isinstance(module, SaliencyMap)
        unwanted = how.ends_run and how.config.check == "none"
        agrees = unwanted or self._agrees(module, outcomes, folder, how)
        wanted = how.config.model.tolerance
        above = sum(wanted is not None and (o.record.get("relative_error") or 0) > wanted for o in outcomes)
        if above:
            how.notify(f"tolerance: {above} of {len(outcomes)} maps ended above {wanted:g}: give more --iterations")
        known = _true_boxes(how.config)
        truth, notes = match(known or (), (str(o.record["source"]) for o in outcomes if o.record["source"]))
        for note in notes:
            how.notify(note)
        if known is not None:
            reducers = {name: module.reducer or method.reducer for name, method in module.methods.items()}
            from lit_viz.launch.commands.saliency_evidence import figure_of_localization  # imports Captum

            localization = localize_run(outcomes, reducers, truth, folder)
            figure = None if folder is None else figure_of_localization(localization)
            if folder is not None and figure is not None:
                save_figure(figure, folder.path / "localization.png")
            how.notify(localization.sentence())
        if how.faithfulness:
            evaluate_maps(
                outcomes,
                module.methods,
                module.classifier,
                folder,
                reducer=module.reducer,
                truth=truth,
                notify=how.notify,
            )
        return agrees

    def _agrees(self, module: SaliencyMap, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry) -> bool:
        from lit_viz.evidence.saliency.cross_check import (  # which import Captum
            cross_check,
            verdicts,
            write_cross_check,
        )
        from lit_viz.launch.commands.saliency_evidence import figure_of_cross_check

        how.notify(f"evidence: asking Captum about {pluralize(len(outcomes), 'map')}")
        half = half_precision(how.config)
        certificate = cross_check(
            outcomes, module.methods, module.classifier, seconds=how.seconds, half=half, notify=how.notify
        )
        found = verdicts(certificate)
        for outcome in outcomes:
            outcome.amend(captum=found.get(outcome.record.index))
        if folder is not None:
            folder.amend(outcome.record for outcome in outcomes if outcome.record.index in found)
            write_cross_check(folder, certificate, outcomes)
            if (figure := figure_of_cross_check(certificate, outcomes)) is not None:
                save_figure(figure, folder.path / "evidence.png")
        how.notify(certificate.sentence(None if folder is None else str(folder.path)))
        return certificate.passed is not False

    def table(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return what each map explains, and how far it may be off."""
        return [
            {
                "photograph": record["name"],
                "method": str(record.get("method", "-")),
                "class": record["target_name"] or "-",
                "status": record["status"],
                "probability": shown_number(record, "probability"),
                "evaluations": str(record["iterations"]),
                "error": _said_error(record),
            }
            for record in results
        ]


def _grouped(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return the outcomes of each photograph and class."""
    found: dict[tuple[Any, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        if record["array"] is not None or outcome.array() is not None:
            found[record["name"], record["source"], record["seed"], record["target"]].append(outcome)
    return list(found.values())


def panels(groups: Sequence[Sequence[Outcome]]) -> list[SaliencyPanel]:
    """Return a panel for each photograph and class, with the maps of all methods."""
    classes = Counter(of_one[0].record["target_name"] for of_one in groups)
    return [_panel(of_one, classes[of_one[0].record["target_name"]] > 1) for of_one in groups]


def _panel(outcomes: Sequence[Outcome], one_of_several: bool) -> SaliencyPanel:
    first = outcomes[0].record
    photograph = outcomes[0].source()
    assert photograph is not None
    return SaliencyPanel(
        name=str(first["target_name"]),
        photograph=photograph,
        maps={title_of(o.record["method"]): a for o in outcomes if (a := o.array()) is not None},
        subtitle=_subtitle(first, one_of_several),
        uncertainty={
            title_of(o.record["method"]): said if "±" in said else f"error {said}"
            for o in outcomes
            if (said := _said_error(o.record)) != "-"
        },
    )


def _subtitle(record: Mapping[str, Any], one_of_several: bool) -> str:
    """Return how sure the network is of the class, and whether it is the photograph's own; the photograph's name where
    several are of the class."""
    said = [] if record.get("probability") is None else [probability_text(record["probability"])]
    if record["target"] == record["label"]:
        said += ["predicted"] if record["label_source"] == "predicted" else []
    if record["target"] != record["label"] or one_of_several:
        said.append(f"of {record['name']}")
    return ", ".join(said)


def _said_error(record: Mapping[str, Any]) -> str:
    if "relative_error" not in record:  # an exact method's
        return "-"
    error = record["relative_error"]
    return "unknown" if error is None or not math.isfinite(error) else f"± {error:.1%}"


def _true_boxes(config: Namespace) -> Sequence[ReferenceBoxes] | None:
    """Return the true boxes that are known; None where no boxes are wanted."""
    if config.boxes is None:
        return () if config.localize else None
    return read_boxes(config.boxes)


def _listed(method: Any) -> list[Attribution]:
    return list(method) if isinstance(method, (list, tuple)) else [method]


def class_paths(methods: str | Sequence[str] | Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return methods as the parser knows them.

    Args:
        methods: ``gradient`` or ``gradient,smoothgrad``, a list of such names, or names with their arguments.

    Raises:
        LitVizError: an unknown method; the known ones are listed.
    """
    named = methods.split(",") if isinstance(methods, str) else methods
    names: Any = named if isinstance(named, (Mapping, list, tuple)) else [named]
    found: list[dict[str, Any]] = [{"class_path": class_path(name, METHODS, "saliency method")} for name in names]
    if isinstance(methods, Mapping):
        for one, arguments in zip(found, methods.values(), strict=True):
            one["init_args"] = dict(arguments or {})
    return found
