"""``lit-viz visualize``: class images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.commands.base import Command, Inquiry, shown_number
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.run_folder import RunFolder
from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import judges_of
from lit_viz.evidence.verdicts import verdict
from lit_viz.figures.evolution import evolution_figure, evolutions
from lit_viz.images.reading import read_photograph
from lit_viz.methods import ClassVisualization
from lit_viz.methods.class_visualization import Judges, as_input, canvases
from lit_viz.outcomes import Outcome

#: Two probabilities of one file are the same: the run asked its fast copy, in other batches.
_SAME = 0.01


class Visualize(Command):
    """Class images from noise or from a photograph."""

    name: ClassVar[str] = "visualize"
    module: ClassVar[type[ImageTraining]] = ClassVisualization
    default_config: ClassVar[str] = "tarantula"
    positional: ClassVar[str] = "targets"
    example: ClassVar[str] = "lit-viz visualize tarantula goldfish --iterations 200"
    demo: ClassVar[tuple[str, ...]] = ("tarantula", "goldfish", "hay", "zebra", "--slots", "4")
    own: ClassVar[frozenset[str]] = frozenset(
        {"classifier", "iterations", "slots", "log_at", "curve_at", "init", "judges"}
    )
    afterwards: ClassVar[str] = "open figure.png and evolution.gif, or follow the run in W&B"

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add targets, the photograph to start from, and how it is fitted."""
        add = parser.add_argument
        add("--targets", type=list[str | int], default=[], help="class names or indices")
        add("--init", type=str | None, default=None, help="photograph to start from, or packaged:NAME [noise]")
        add("--fit", type=Literal["crop", "squash", "pad"], default="crop", help="how the photograph is fitted")

    def check(self, config: Namespace) -> None:
        """Refuse a run without targets."""
        if not config.targets:
            raise LitVizError(f"no class was named: try {self.example}")
        if config.iterations is None:
            raise LitVizError("a class image has no number of iterations of its own: give --iterations.")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a target; a class that is named twice gets two seeds."""
        tasks = []
        for index, wanted in enumerate(config.targets):
            target = classifier.index_of(wanted)
            name = classifier.labels[target]
            seed = config.seed + index
            tasks.append(Task(index, name, seed, target=target, target_name=name, source=config.init))
        return tasks, []

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ClassVisualization:
        """Return the module; the photograph is read here, so that a broken one ends the run before it begins."""
        return ClassVisualization(
            classifier,
            **parts,
            init=self._photograph(config, parts, classifier),
            judges=judges_of(classifier),
            iterations=config.iterations,
            slots=config.slots,
            log_at=config.log_at,
            curve_at=config.curve_at,
        )

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return the images at some of the logged iterations over the curve of their probability."""
        return evolution_figure(evolutions(outcomes))

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry
    ) -> bool:
        """Read the pictures again and ask the original network and the judges; a run asked them as it went."""
        if folder is None or how.ends_run:
            return True
        assert isinstance(module, ClassVisualization)
        ask = judges_of(module.classifier)
        done = [o for o in outcomes if o.record["status"] == "done"]
        found = {o.record["index"]: self._again(o, module, ask) for o in done}
        same = [abs(found[o.record["index"]]["probability"] - o.record["probability"]) < _SAME for o in done]
        folder.amend({index: {"judges": again["judges"]} for index, again in found.items()})
        pictures = [{"index": index, **again} for index, again in found.items()]
        folder.merge_evidence({"pictures": {"read": len(done), "same": sum(same), "verdicts": pictures}})
        how.say(f"evidence: {sum(same)} of {len(done)} files are seen by the original network as their records say")
        for name in {name for again in found.values() for name in again["judges"]}:
            right = sum(again["judges"][name]["rank"] == 1 for again in found.values())
            how.say(f"evidence: {name} sees the class in {right} of {len(done)}")
        return all(same)

    @staticmethod
    def _again(outcome: Outcome, module: ClassVisualization, ask: Judges) -> dict[str, Any]:
        """Return what networks say of the picture that lies in the run folder."""
        picture = outcome.image()
        assert picture is not None
        target = outcome.record["target"]
        logits = module.classifier.logits(as_input(picture[None], module.classifier.size))[0]
        return {"probability": verdict(logits, target)["probability"], "judges": dict(ask(picture, target))}

    def table(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return what the network says of each image, and what the judges say: probability and rank."""
        judges = sorted({name for record in results for name in record.get("judges") or {}})
        return [self._row(record, judges) for record in results]

    @staticmethod
    def _row(record: Mapping[str, Any], judges: Sequence[str]) -> dict[str, str]:
        said = {f"by {name}": (record.get("judges") or {}).get(name) for name in judges}
        return {
            "class": record["target_name"] or record["name"],
            "status": record["status"],
            "probability": shown_number(record, "probability"),
            "rank": str(record.get("rank", "-")),
            **{name: "-" if v is None else f"{v['probability']:.2f} ({v['rank']})" for name, v in said.items()},
        }

    def _photograph(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> Tensor | None:
        if config.init is None:
            return None
        _, canvas = canvases(classifier, parts["size"], parts["oversample"])
        return read_photograph(config.init, (canvas.height, canvas.width), canvas.channels, config.fit).pixels
