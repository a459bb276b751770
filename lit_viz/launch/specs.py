"""The methods as users launch them: one specification each, which command line, short functions, help and resume read.

Classes are named by their public paths, so that ``lit-viz --help`` does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_viz.errors import ArgumentError, require
from lit_viz.utils.imports import import_by_path

if TYPE_CHECKING:
    from lit_viz.methods.form import MethodForm
    from lit_viz.networks import Network


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A method as a command and a short function.

    Attributes:
        name: name of the command, of the short function, and of the folder in ``configs/``.
        words, summary: arguments and summary in ``lit-viz --help``.
        example: arguments of the example in its help.
        demo: arguments in ``lit-viz demo``.
        modules: public paths of the classes of the method; the first is the default.
        tasks: public path of its queue of tasks.
        function: public path of the short function; by default that of ``lit_viz`` with the name.
        config: packaged configuration that is used unless another is given; empty for the defaults of the classes.
        positional: argument that receives the positional words.
        part: argument of the module that is given by name; empty if there is none.
        varying: arguments of which the tasks can have several values.
        what: arguments of the short function in the section of its help about the tasks.
        selection: arguments of it that :meth:`place` places together.
        shown: options that its ``--help`` shows in addition to those of all runs; ``--help-all`` shows all.
    """

    name: str
    words: str
    summary: str
    example: str
    demo: tuple[str, ...]
    modules: tuple[str, ...]
    tasks: str = "lit_viz.ImageTasks"
    function: str = ""
    config: str = ""
    positional: str = "images"
    part: str = ""
    varying: tuple[str, ...] = ()
    what: tuple[str, ...] = ("images", "target", "label", "against", "goal", "vary", "seed")
    selection: tuple[str, ...] = ()
    shown: frozenset[str]

    @property
    def short_function(self) -> Any:
        """The short function, whose signature and docstring are options and help."""
        return import_by_path(self.function or f"lit_viz.{self.name}")

    def config_for(self, given: Mapping[str, Any], network: Network | None = None) -> str:
        """Return the configuration of arguments without ``config``; the network may decide."""
        return self.config

    def adapt(self, form: MethodForm, given: Mapping[str, Any], network: Network) -> None:
        """Change a configuration that was not given as the network requires."""

    def place(self, form: MethodForm, selection: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Place what selects the tasks in a form with the other arguments, and check it."""
        from lit_viz.utils.parts import hints_of

        if "images" in hints_of(form.tasks_class):  # not of tasks of the user
            hint = f"try lit-viz {self.name} {self.example}"
            require("images" in form.tasks["init_args"], "images must be given", "none", hint=hint)


class _VisualizeSpec(MethodSpec):
    """Class images: classes, a layer or its channels, or another objective."""

    def config_for(self, given: Mapping[str, Any], network: Network | None = None) -> str:
        from lit_viz.launch.units import config_of_layer

        if given.get("layer") is None:
            return self.config
        return config_of_layer(network)

    def adapt(self, form: MethodForm, given: Mapping[str, Any], network: Network) -> None:
        from lit_viz.launch.units import adapt_to_layer

        if given.get("layer") is not None:
            adapt_to_layer(form, network)

    def place(self, form: MethodForm, selection: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        from lit_viz.launch.units import select

        select(form, selection, self.selection, has_objective="objective" in given)


class _SaliencySpec(MethodSpec):
    """Saliency maps, whose targets are classes."""

    def place(self, form: MethodForm, selection: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        from lit_viz.methods.tasks import to_classes

        if given.get("target") is not None and "none" in to_classes(given["target"]):
            raise ArgumentError("target", "of saliency maps must be classes, got none: leave it out for the labels")
        super().place(form, selection, given)


class _AttackSpec(MethodSpec):
    """Adversarial examples, whose targets are contrasted with nothing."""

    def place(self, form: MethodForm, selection: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        if given.get("against") is not None:
            raise ArgumentError("against", "does not apply to attacks: leave it out")
        super().place(form, selection, given)


_SPECS = (
    _VisualizeSpec(
        name="visualize",
        words="tarantula goldfish",
        summary="class images; --layer NAME --channel 3,14-20: channels",
        example="tarantula goldfish --iterations 200",
        demo=("tarantula", "goldfish", "hay", "zebra", "--slots", "4"),
        modules=("lit_viz.ClassVisualization",),
        tasks="lit_viz.ClassTasks",
        config="tarantula",
        positional="target",
        part="objective",
        varying=("iterations", "lr"),
        what=("target", "against", "layer", "channel", "neuron", "axis", "init", "vary", "seed"),
        selection=("target", "against", "layer", "channel", "neuron", "axis"),
        shown=frozenset({
            "target", "against", "layer", "channel", "neuron", "init", "step_rule.lr", "picture.size",
        }),
    ),
    _SaliencySpec(
        name="saliency",
        words="PHOTO_OR_FOLDER ...",
        summary="saliency maps, cross-checked with Captum",
        example="packaged:chelsea --method smoothgrad",
        demo=(
            "packaged:chelsea", "packaged:coffee", "packaged:rocket", "--method", "occlusion,gradient,gradient_shap",
            # Half of the forwards of compare_methods.
            "--method.occlusion.window", "48", "--method.occlusion.stride", "24",
            "--captum", "captum",
        ),
        modules=("lit_viz.SaliencyMap",),
        config="auto",
        part="method",
        varying=("target",),
        shown=frozenset({"target", "label", "against", "method", "reducer", "overlays", "captum", "faithfulness"}),
    ),
    _AttackSpec(
        name="attack",
        words="PHOTO --target stingray",
        summary="adversarial examples, verified in the saved file",
        example="packaged:chelsea --target stingray",
        demo=("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray"),
        modules=("lit_viz.AdversarialExample", "lit_viz.UniversalPerturbation"),
        config="normalized_ascent",
        part="attack",
        varying=("eps", "target"),
        shown=frozenset({
            "target", "label", "attack", "eps", "attack.eps", "attack.norm", "attack.lr", "goal", "explain",
        }),
    ),
)  # fmt: skip
#: The methods by name.
METHODS = {spec.name: spec for spec in _SPECS}
