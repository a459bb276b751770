"""What class images are of, from arguments to a form: classes, a layer, its channels, or another objective."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_viz.errors import ArgumentError, LitVizError, did_you_mean, require
from lit_viz.methods.form import MethodForm
from lit_viz.methods.tasks import to_classes, varied
from lit_viz.networks import Network
from lit_viz.networks.layers import layer_of
from lit_viz.objectives import Logit, Objective
from lit_viz.objectives.layers import Place, axis_of, layer_parts, objective_of_layer
from lit_viz.types import Task
from lit_viz.utils.parts import construct, hints_of, plain_arguments, public_path

_VIEW = (128, 128)  # of the configuration channels
_SMALL = 64  # pixels; images of the configuration small
#: Classes of the tasks of class images, of which the objective decides.
_QUEUES = ("lit_viz.ClassTasks", "lit_viz.LayerTasks", "lit_viz.TaskQueue")


def config_of_layer(network: Network | None) -> str:
    """Return the configuration of the images of a layer, by the input sizes that a network accepts."""
    is_small = network is not None and not network.accepts(_VIEW) and min(network.size) <= _SMALL
    if is_small:
        return "small"
    return "channels"


def adapt_to_layer(form: MethodForm, network: Network) -> None:
    """Change the configuration of the images of a layer as the network requires.

    The L2 prior of the configuration ``small`` outweighs the mean activation of a channel.
    """
    if config_of_layer(network) == "small":
        form.module["init_args"].pop("priors", None)
    elif not network.accepts(_VIEW):
        form.set("native", False)


def select(form: MethodForm, selection: Mapping[str, Any], names: Sequence[str], has_objective: bool) -> None:
    """Set objective and tasks of class images by what is visualized: classes, a layer, or another objective.

    Args:
        form: a form with the objective and the tasks of its configuration.
        selection: arguments that select the tasks; None for none, in place of the configuration's.
        names: all such arguments.
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
    known = dict.fromkeys([*names, *hints_of(form.tasks_class)])
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known)
            raise LitVizError(f"{name} is not an argument of {form.tasks_class.__name__}{hint}")
    is_replaced = layer is not None or target or has_objective
    for name in names if is_replaced else selection:
        chosen.pop(name, None)
    chosen |= given
    if "neuron" in chosen and "channel" not in chosen:
        raise ArgumentError("neuron", "requires a channel")
    objective: Objective = construct(form.module["init_args"].get("objective", Logit()), Objective, "objective")
    if layer is not None and has_objective and not any(layer_parts(objective)):
        name = type(objective).__name__
        problem = f"must read a layer where a layer is given, got {name}: leave one out"
        raise ArgumentError("objective", problem, value=objective)
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
        raise ArgumentError("channel", f"applies to objectives such as Channel, got {name}: {hint}")
    if chosen.get("against") is not None and "against" not in fields:
        raise ArgumentError("against", f"requires a score of a class, such as Logit, got {name}")
    if has_target and "target" not in fields:
        raise ArgumentError("target", f"requires an objective of a class, got {name}: leave one out")
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
        raise ArgumentError("neuron", f"must be row,column such as 3,4, or center, got {neuron}")
    row, column = words.split(",")
    return int(row), int(column)
