"""From the arguments of a short function or of a command to a form, and to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lit_viz.errors import ArgumentError, LitVizError, require
from lit_viz.images.sources import picture_size
from lit_viz.launch.comparison import Comparison, compare_runs
from lit_viz.launch.execute import execute, finished
from lit_viz.launch.form import Form, find_config
from lit_viz.launch.options import RunOptions
from lit_viz.launch.run import Run
from lit_viz.launch.specs import METHODS, MethodSpec
from lit_viz.networks import Network, as_network
from lit_viz.outputs.loading import split_section
from lit_viz.utils.formatting import choose_notify
from lit_viz.utils.owners import Owner
from lit_viz.utils.parts import classes_in, hints_of
from lit_viz.utils.process import is_rank_zero


def read_config(spec: MethodSpec, name: str | Path | None) -> Form:
    """Return the form of a configuration; of a run's ``config.yaml``, what applies to another run.

    Raises:
        LitVizError: there is none, or it is of another method.
    """
    if name is None:
        name = spec.config
    if name:
        name = find_config(spec.name, name)
        form = Form.read(name)
    else:
        form = Form.of_mapping({}, spec.name)
    form.module.setdefault("class_path", spec.modules[0])
    form.tasks.setdefault("class_path", spec.tasks)
    kind = form.module_class
    path_of_kind = f"lit_viz.{kind.__name__}" if kind.__module__.startswith("lit_viz.") else ""
    for other in METHODS.values():
        if path_of_kind in other.modules and path_of_kind not in spec.modules:
            raise LitVizError(f"{name} is the configuration of lit-viz {other.name}, not of lit-viz {spec.name}")
    for key in ("out", "overwrite", "resume", "shard"):
        form.run.pop(key, None)
    return form


def method_form(
    spec: MethodSpec,
    values: Mapping[str, Any],
    network: Network | None = None,
    *,
    base: Form | None = None,
    owners: Mapping[str, Owner] = MappingProxyType({}),
) -> Form:
    """Return the form of a run from the arguments of the short function of its method.

    Args:
        spec: the method.
        values: arguments by name, dotted names included.
        network: the network, if it is loaded; it decides on the configuration of the images of a layer.
        base: form of the configuration, if it is read; it is changed.
        owners: what receives an argument in this form, by its name, as far as it is known.

    Raises:
        LitVizError: an argument is unknown, or does not apply.
    """
    section, given = split_section(values)
    config = given.pop("config", None)
    form = base or read_config(spec, spec.config_for(given, network) if config is None else config)
    if "name" in section:
        form.network = {}
    form.network = form.network | section
    if config is None and network is not None:
        spec.adapt(form, given, network)
    selection = {name: given.pop(name) for name in spec.selection if name in given}
    names = hints_of(form.module_class)
    parts = [name for name in given if name in names and classes_in(names[name])]
    for name in sorted(given, key=lambda name: name not in parts):  # whose arguments have names of their own
        form.set(name, given[name], owners.get(name))
    spec.place(form, selection, given)
    return form


def run_method(name: str, arguments: Mapping[str, Any]) -> Any:
    """Run a method by the arguments of its short function; return the run, or the comparison of several attacks.

    Args:
        name: name of the function.
        arguments: network, progress, and ``options``, which are other arguments of which None is a value; of its own
            arguments None is the default.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    network, progress, options = given.pop("network"), given.pop("progress", None), given.pop("options")
    size = None
    if "images" in arguments:
        require("images" in given, "images must be one or several images", "None")
        size = picture_size(given["images"])
    for key, value in options.items():
        if key.startswith("network."):
            argument = key.removeprefix("network.")
            raise ArgumentError(key, f"must be given to load_network(..., {argument}={value!r})")
    network = as_network(network, size)
    form = method_form(METHODS[name], {**given, **options}, network)
    runs: list[Run] = []
    for one in form.runs():
        module, tasks = one.build(network)
        runs.append(finished(execute(module, tasks, one.options(), notify=choose_notify(progress))))
    if len(runs) == 1:
        return runs[0]
    return compared(runs, form.options())


def compared(runs: Sequence[Run], options: RunOptions) -> Comparison:
    """Return the comparison of the runs of one call, which is written to the folder that contains theirs."""
    comparison = compare_runs([run.compared for run in runs])
    comparison.runs = runs
    if options.out is not None and is_rank_zero():
        comparison.save(options.out, figure=options.figure)
    return comparison
