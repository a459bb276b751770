"""The methods as users launch them: from the arguments of a short function or of a command to a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError, did_you_mean, require
from lit_viz.launch.form import Form, find_config
from lit_viz.methods.tasks import to_classes, varied
from lit_viz.networks import Network
from lit_viz.networks.layers import layer_of
from lit_viz.objectives import Logit, Objective
from lit_viz.objectives.layers import Place, axis_of, layer_parts, objective_of_layer
from lit_viz.outputs.loading import split_section
from lit_viz.types import Task
from lit_viz.utils.parts import classes_in, construct, hints_of, plain_arguments, public_path

_VIEW = (128, 128)  # of the configuration channels
_SMALL = 64  # pixels; images of the configuration small
#: Arguments that select the tasks of class images.
_SELECTION = ("target", "against", "layer", "channel", "neuron", "axis")
#: Classes of the tasks of class images, of which the objective decides.
_QUEUES = ("lit_viz.ClassTasks", "lit_viz.LayerTasks", "lit_viz.TaskQueue")


@dataclass(frozen=True)
class MethodCommand:
    """A method as a command.

    Attributes:
        name: name of the command, of the short function, and of the folder in ``configs/``.
        modules: public paths of the classes of its methods.
        config: packaged configuration that is used unless another is given.
        positional: argument that receives the positional words.
        part: argument of the module that is given by name.
        varying: arguments of which the tasks can have several values.
        example: arguments of an example.
        demo: arguments in ``lit-viz demo``.
    """

    name: str
    modules: tuple[str, ...]
    config: str
    positional: str
    part: str
    varying: tuple[str, ...]
    example: str
    demo: tuple[str, ...]


COMMANDS = {
    "visualize": MethodCommand(
        name="visualize",
        modules=("lit_viz.ClassVisualization",),
        config="tarantula",
        positional="target",
        part="objective",
        varying=("iterations", "lr"),
        example="tarantula goldfish --iterations 200",
        demo=("tarantula", "goldfish", "hay", "zebra", "--slots", "4"),
    ),
    "saliency": MethodCommand(
        name="saliency",
        modules=("lit_viz.SaliencyMap",),
        config="auto",
        positional="images",
        part="method",
        varying=("target",),
        example="packaged:chelsea --method smoothgrad",
        demo=(
            "packaged:chelsea", "packaged:coffee", "packaged:rocket", "--method", "occlusion,gradient,gradient_shap",
            # Half of the forwards of compare_methods.
            "--method.occlusion.window", "48", "--method.occlusion.stride", "24",
            "--captum", "captum",
        ),
    ),
    "attack": MethodCommand(
        name="attack",
        modules=("lit_viz.AdversarialExample", "lit_viz.UniversalPerturbation"),
        config="normalized_ascent",
        positional="images",
        part="attack",
        varying=("eps", "target"),
        example="packaged:chelsea --target stingray",
        demo=("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray"),
    ),
}  # fmt: skip


def read_config(command: MethodCommand, name: str | Path | None) -> Form:
    """Return the form of a configuration; of a run's ``config.yaml``, what applies to another run.

    Raises:
        LitVizError: there is none, or it is of another method.
    """
    path = find_config(command.name, command.config if name is None else name)
    form = Form.read(path)
    form.module.setdefault("class_path", command.modules[0])
    form.tasks.setdefault("class_path", _TASKS[command.name])
    kind_path = public_path(form.module_class)
    for other in COMMANDS.values():
        if kind_path in other.modules and other is not command:
            raise LitVizError(f"{path} is the configuration of lit-viz {other.name}, not of lit-viz {command.name}")
    for key in ("out", "overwrite", "resume", "shard"):
        form.run.pop(key, None)
    return form


_TASKS = {"visualize": "lit_viz.ClassTasks", "saliency": "lit_viz.ImageTasks", "attack": "lit_viz.ImageTasks"}


def network_section(command: MethodCommand, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the network, given or of the configuration, and the other arguments of a command."""
    section = read_config(command, values.get("config")).network
    given, others = split_section(values)
    if "name" in given:
        section = {}
    return section | given, others


def method_form(command: MethodCommand, values: Mapping[str, Any], network: Network | None = None) -> Form:
    """Return the form of a run from the arguments of the short function of its method.

    Args:
        command: the method.
        values: arguments by name, dotted names included.
        network: the network, which decides on the configuration of the images of a layer.

    Raises:
        LitVizError: an argument is unknown, or does not apply.
    """
    given = dict(values)
    config = given.pop("config", None)
    if command.name == "attack" and given.get("against") is not None:
        raise LitVizError("against does not apply to attacks: leave it out", argument="against")
    target = given.get("target")
    if command.name == "saliency" and target is not None and "none" in to_classes(target):
        raise LitVizError(
            "target of saliency maps must be classes, got none: leave it out for the labels", argument="target"
        )
    selection: dict[str, Any] = {}
    if command.name == "visualize":
        for name in _SELECTION:
            if name in given:
                selection[name] = given.pop(name)
    if "layer" in selection and config is None:
        form = _layer_form(command, network)
    else:
        form = read_config(command, config)
    parts = [name for name in given if name in hints_of(form.module_class) and _admits_parts(form, name)]
    for name in sorted(given, key=lambda name: name not in parts):  # whose arguments have names of their own
        form.set(name, given[name])
    if command.name == "visualize":
        _select(form, selection, has_objective="objective" in given)
    elif "images" in hints_of(form.tasks_class):
        hint = f"try lit-viz {command.name} {command.example}"
        require("images" in form.tasks["init_args"], "images must be given", "none", hint=hint)
    return form


def _admits_parts(form: Form, name: str) -> bool:
    return bool(classes_in(hints_of(form.module_class)[name]))


# -- class images


def _layer_form(command: MethodCommand, network: Network | None) -> Form:
    """Return the configuration of the images of a layer, by the input sizes that a network accepts.

    The L2 prior of the configuration ``small`` is removed: it outweighs the mean activation of a channel.
    """
    if network is None or network.accepts(_VIEW):
        return read_config(command, "channels")
    if min(network.size) <= _SMALL:
        form = read_config(command, "small")
        form.module["init_args"].pop("priors", None)
        return form
    form = read_config(command, "channels")
    form.set("native", False)
    return form


def _select(form: Form, selection: Mapping[str, Any], has_objective: bool) -> None:
    """Set objective and tasks of class images by what is visualized: classes, a layer, or another objective.

    Args:
        form: a form with the objective and the tasks of its configuration.
        selection: arguments that select the tasks; None for none, in place of the configuration's.
        has_objective: whether the objective is given; what the configuration selects is then removed.
    """
    given = {name: value for name, value in selection.items() if value is not None}
    if public_path(form.tasks_class) not in _QUEUES:  # tasks of the user
        for name, value in given.items():
            form.set(name, value)
        return
    if "tasks" in form.tasks["init_args"] and not (given or has_objective):
        return
    target = to_classes(given.get("target", ()))
    layer = given.get("layer")
    if isinstance(layer, int):  # of a Sequential
        layer = given["layer"] = str(layer)
    if layer is not None and target:
        words = ", ".join(map(str, target))
        raise LitVizError(f"a run must have classes or a layer, got {words} and the layer {layer}: leave one out")
    chosen = dict(form.tasks["init_args"])
    known = dict.fromkeys([*_SELECTION, *hints_of(form.tasks_class)])
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known)
            raise LitVizError(f"{name} is not an argument of {form.tasks_class.__name__}{hint}")
    is_replaced = layer is not None or target or has_objective
    for name in _SELECTION if is_replaced else selection:
        chosen.pop(name, None)
    chosen |= given
    if "neuron" in chosen and "channel" not in chosen:
        raise LitVizError("neuron requires a channel", argument="neuron")
    objective: Objective = construct(form.module["init_args"].get("objective", Logit()), Objective, "objective")
    if layer is not None and has_objective and not any(layer_parts(objective)):
        name = type(objective).__name__
        message = f"objective must read a layer where a layer is given, got {name}: leave one out"
        raise LitVizError(message, argument="objective", value=objective)
    if chosen.get("layer") is not None:
        place = parse_place(chosen.get("neuron"))
        has_channels = chosen.get("channel") is not None
        objective = objective_of_layer(objective, chosen["layer"], has_channels, chosen.get("axis"), place)
    elif "neuron" in chosen or ("axis" in chosen and not objective.layers):
        raise LitVizError("neuron and axis require a layer (see lit-viz layers)")
    form.module["init_args"]["objective"] = objective
    form.tasks = _queue_of(objective, chosen, has_target=bool(target))


def _queue_of(objective: Objective, chosen: Mapping[str, Any], has_target: bool) -> dict[str, Any]:
    """Return the section of the tasks that an objective requires: of classes, of channels, or a single one."""
    name, fields = type(objective).__name__, objective.task_fields
    arguments = {key: chosen[key] for key in ("vary", "seed") if key in chosen}
    if chosen.get("channel") is not None and "channel" not in fields:
        hint = "leave channel out" if objective.layers else "give a layer too"
        raise LitVizError(f"channel applies to objectives such as Channel, got {name}: {hint}", argument="channel")
    if chosen.get("against") is not None and "against" not in fields:
        raise LitVizError(f"against requires a score of a class, such as Logit, got {name}", argument="against")
    if has_target and "target" not in fields:
        raise LitVizError(f"target requires an objective of a class, got {name}: leave one out", argument="target")
    if "target" in fields:
        named = to_classes(chosen.get("target", ()))
        require(named, "target must name at least one class", "none", hint="or give a layer")
        of_classes = {key: chosen[key] for key in ("target", "against") if key in chosen}
        return {"class_path": "lit_viz.ClassTasks", "init_args": of_classes | arguments}
    layer = _layer_of(objective)
    if layer is None:
        rows = varied([Task(0, name, int(chosen.get("seed", 0)))], chosen.get("vary") or {})
        return {"class_path": "lit_viz.TaskQueue", "init_args": {"tasks": plain_arguments(rows)}}
    if "channel" in fields:
        if chosen.get("channel") is None:
            raise LitVizError(f"the objective of layer {layer!r} requires a channel, got none: try channel 3,14-20")
        arguments = {"channel": chosen["channel"], "axis": axis_of(objective), **arguments}
    return {"class_path": "lit_viz.LayerTasks", "init_args": {"layer": layer, **arguments}}


def _layer_of(objective: Objective) -> Any:
    """Return the first layer of an objective, its name or the module; None if it reads the logits only."""
    for part in layer_parts(objective):
        return part.arguments["layer"]
    for name in objective.layers:
        return layer_of(name)
    return None


def parse_place(neuron: Any) -> Place:
    """Return row and column of ``3,4`` or of a pair of numbers; ``center`` and None are unchanged."""
    if neuron is None:
        return None
    if neuron == "center":
        return "center"
    words = neuron if isinstance(neuron, str) else ",".join(map(str, neuron))
    if not re.fullmatch(r"\d+,\d+", words):
        raise LitVizError(f"neuron must be row,column such as 3,4, or center, got {neuron}", argument="neuron")
    row, column = words.split(",")
    return int(row), int(column)
