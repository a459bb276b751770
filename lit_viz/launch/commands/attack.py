"""``lit-viz attack``: how little must change for the network to be wrong?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.attacks import ATTACKS, BudgetAttack, Universal, without_radius
from lit_viz.attacks.norms import LINF, format_distance
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.launch.commands.base import class_path, import_class
from lit_viz.launch.commands.photographs import PhotographCommand, add_photograph_arguments
from lit_viz.methods import AdversarialExample, UniversalPerturbation
from lit_viz.methods.targets import is_targeted
from lit_viz.methods.universal_perturbation import HELD_OUT
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.base import Presentation
from lit_viz.presentations.universal_perturbation import UniversalPerturbationPresentation
from lit_viz.rng import Draws, Key
from lit_viz.types import Task


class Attack(PhotographCommand):
    """Adversarial examples of photographs, verified in the files that are saved."""

    name: ClassVar[str] = "attack"
    module: ClassVar[type[ImageTraining]] = AdversarialExample
    default_config: ClassVar[str] = "normalized_ascent"
    shorts: ClassVar[str] = (
        f"--attack NAME is one of {', '.join(ATTACKS)}; --attack.OPTION VALUE is its own (--attack.restarts 5), and so "
        "are --eps 4/255 and --norm linf or l2."
    )
    example: ClassVar[str] = "lit-viz attack packaged:chelsea --target stingray"
    flags: ClassVar[tuple[str, ...]] = ("--explain",)
    changeable: ClassVar[tuple[str, ...]] = ("explain",)
    evidence_options: ClassVar[tuple[str, ...]] = ("trust",)
    demo: ClassVar[tuple[str, ...]] = ("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray")
    target: ClassVar[Literal["label", "none"]] = "none"
    curve_at: ClassVar[str] = "every:1"

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add options of photographs, targets, labels, several radii, the held-out fraction and explanations."""
        add_photograph_arguments(parser)
        add = parser.add_argument
        add("--radii", type=list[float], default=[], help="several eps (--eps 1/255,2/255,4/255): a robustness curve")
        add(
            "--held_out",
            type=float,
            default=0.0,
            help="fraction of the photographs that a universal attack is not trained on",
        )
        add("--explain", action="store_true", help="draws the saliency of original and outcome side by side")

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Turn ``--attack pgd``, ``--eps 4/255``, ``--norm linf`` into the attack's own options."""
        if name == "--attack":
            return "--model.attack", class_path(value, ATTACKS, "attack")
        if name == "--eps" and "," in value:
            return "--radii", json.dumps(radii_of(value))
        if name in ("--eps", "--norm"):
            name = f"--attack.{name[2:]}"
        if name.startswith("--attack."):
            return f"--model.{name[2:]}", _as_decimal(value)
        return name, value

    def check(self, config: Namespace) -> None:
        """Refuse a run without photographs, with a budget of nothing, or that holds out for no universal attack."""
        super().check(config)
        if _argument(config, "eps") == 0 or 0 in config.radii:
            raise LitVizError("--eps 0 lets nothing change: give a radius such as 4/255.")
        if len(set(config.radii)) < len(config.radii):
            radii = ", ".join(format_distance(radius, _norm(config)) for radius in config.radii)
            raise LitVizError(f"--eps makes one image per radius; they must differ, got {radii}.")
        if config.held_out and not _is_universal(config):
            raise LitVizError("--held-out is for photographs that are attacked together: take --attack universal.")
        if not 0 <= config.held_out < 1:
            raise LitVizError(f"--held-out {config.held_out} is no part: give a number from 0 to below 1 such as 0.25.")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a photograph and target, and where there are several radii, of each."""
        if config.radii and not isinstance(parts["attack"], BudgetAttack):
            raise LitVizError(without_radius(type(parts["attack"])))
        for radius in config.radii:
            parts["attack"].check_radius(radius, "--eps")
        if isinstance(parts["attack"], Universal):
            photographs, notes = self.queue(config, classifier)
            return universal_tasks(photographs, config), notes
        tasks, notes = self.queue(config, classifier, [{"eps": radius} for radius in config.radii] or [{}])
        for targeted in {is_targeted(task) for task in tasks}:
            parts["attack"].check_classes(classifier, targeted=targeted)
        return tasks, notes

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the module; a universal attack has one of its own, which looks at several photographs an iteration."""
        if not isinstance(parts["attack"], Universal):
            return super().build(config, parts, classifier)
        if parts["transforms"]:
            raise LitVizError("a universal perturbation supports no transforms: leave out --model.transforms.")
        views = Universal.views if parts["views"] is None else parts["views"]
        parts = {"attack": parts["attack"], "views": views, "residual_gradient": parts["residual_gradient"]}
        return self.made(UniversalPerturbation, config, parts, classifier)

    def presentation(self, config: Namespace) -> Presentation:
        """Return the presentation of adversarial examples, or of universal perturbations."""
        return UniversalPerturbationPresentation() if _is_universal(config) else AdversarialExamplePresentation()


def _argument(config: Namespace, name: str) -> Any:
    """Return an argument of the attack, None where it has none of that name."""
    return dict(config.model.attack.get("init_args") or {}).get(name)


def _norm(config: Namespace) -> str:
    return str(_argument(config, "norm") or LINF.name)


def _is_universal(config: Namespace) -> bool:
    return issubclass(import_class(config.model.attack.class_path), Universal)


def class_path_of(attack: str | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the class path and arguments of an attack, given by its name or as ``{name: arguments}``.

    Raises:
        LitVizError: no attack has this name; the message lists the names.
    """
    if not isinstance(attack, Mapping):
        return {"class_path": class_path(attack, ATTACKS, "attack")}
    if len(attack) != 1:
        raise LitVizError(f"a run has one attack, not {len(attack)}: run others by themselves.")
    ((name, arguments),) = attack.items()
    return {"class_path": class_path(name, ATTACKS, "attack"), "init_args": dict(arguments or {})}


def radii_of(given: float | str | Sequence[float | str]) -> list[float]:
    """Return radii as numbers: one, or several as ``1/255,2/255`` or in a list.

    Raises:
        LitVizError: one of them is no number.
    """
    several = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    if not several:
        raise LitVizError("--eps names no radius: give one such as 4/255, or leave it out.")
    return [_number(str(one)) for one in several]


def _as_decimal(value: str) -> str:
    """Return ``4/255`` as a decimal number; anything else as it is."""
    above, slash, below = value.partition("/")
    try:
        return str(float(above) / float(below)) if slash else value
    except ZeroDivisionError as error:
        raise LitVizError(f"the radius {value} divides by zero: give one such as 4/255.") from error
    except ValueError:
        return value


def _number(radius: str) -> float:
    try:
        return float(_as_decimal(radius.strip()))
    except ValueError as error:
        raise LitVizError(f"--eps: {radius!r} is no number: give several as 1/255,2/255,4/255.") from error


def universal_tasks(photographs: Sequence[Task], config: Namespace) -> list[Task]:
    """Return one task a target and radius, each for all photographs.

    Args:
        photographs: a task a photograph and target.
        config: of the run.

    Raises:
        LitVizError: every photograph has a target of its own, or more are held out than there are.
    """
    for task in photographs:
        if (wish := task.options.get("target")) is not None and wish != "none":
            raise LitVizError(f"--target {wish} is another class for each photograph: give one for all, or none.")
    usable = [task for task in photographs if "error" not in task.options]
    tasks: list[Task] = []
    for target, named in {task.target: task.target_name for task in usable}.items():
        mine = [task for task in photographs if "error" in task.options or task.target == target]
        members = _split(mine, config.held_out, config.seed)
        for radius in config.radii or [None]:
            options: dict[str, Any] = {"photographs": [asdict(member) for member in members]}
            options |= {} if radius is None else {"eps": radius}
            target_name = named if target is not None else None
            name = "universal" if target_name is None else f"universal {target_name}"
            seed = config.seed + len(tasks)
            tasks.append(Task(len(tasks), name, seed, target=target, target_name=target_name, options=options))
    return tasks


def _split(photographs: Sequence[Task], fraction: float, seed: int) -> list[Task]:
    """Return the photographs, numbered anew, of which a part drawn at random is held out."""
    order = Draws([Key(seed, 0)]).uniform("held out", shape=(len(photographs),))[0].argsort().tolist()
    out = set(order[: round(fraction * len(photographs))])
    return [
        replace(task, index=i, options={**task.options, **({HELD_OUT: True} if i in out else {})})
        for i, task in enumerate(photographs)
    ]
