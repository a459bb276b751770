"""A run as a form: network, module, tasks and the arguments of :func:`lit_viz.run`, plain values or objects.

Packaged configurations, ``config.yaml`` of a run, the keywords of the short functions and the options of the command
line are forms. A module or a queue of tasks is written as ``class_path`` and ``init_args``, with public paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import LitVizError, did_you_mean, require
from lit_viz.launch.early import unknown_configuration
from lit_viz.launch.options import FIXED_TRAINER_ARGUMENTS, RunOptions
from lit_viz.loggers.base import LoggerSettings
from lit_viz.methods.form import MethodForm
from lit_viz.networks import Network
from lit_viz.networks.loading import at_size
from lit_viz.outputs.loading import load_network
from lit_viz.runs.layout import RECORDED
from lit_viz.utils.files import check_regular, plain
from lit_viz.utils.owners import Owner
from lit_viz.utils.parts import INSTANCE, construct, has_instances, hints_of, plain_arguments, short_name
from lit_viz.utils.yaml_files import config_folder, read_yaml

SECTIONS = ("network", "module", "tasks", "run")
#: What receives arguments besides the module, its parts and the tasks.
RUN = Owner("run", RunOptions, ("run",))
LOGGING = Owner("logging", LoggerSettings, ("run", "logging"), short=tuple(hints_of(LoggerSettings)))
TRAINER = Owner(
    "trainer",
    pl.Trainer,
    ("run", "trainer"),
    hidden=FIXED_TRAINER_ARGUMENTS,
    needs_prefix=True,
    short=("devices", "accelerator", "precision"),
)
NETWORK = Owner("network", load_network, ("network",), needs_prefix=True)


@dataclass
class Form(MethodForm):
    """A run as plain values or objects.

    Attributes:
        network: arguments of :func:`lit_viz.load_network`, its name as ``name``.
        module, tasks: see :class:`~lit_viz.methods.form.MethodForm`.
        run: arguments of :func:`lit_viz.run`, the Trainer's as ``trainer`` and the loggers' as ``logging``.
    """

    network: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    # Files

    @classmethod
    def read(cls, path: str | Path) -> Form:
        """Return the form of a YAML file.

        Raises:
            LitVizError: the file is damaged, or has another key.
        """
        return cls.of_mapping(read_yaml(Path(path)), str(path))

    @classmethod
    def of_mapping(cls, values: Mapping[str, Any], source: str) -> Form:
        """Return the form of the values of a YAML file."""
        for key, value in values.items():
            if key not in (*SECTIONS, RECORDED):
                hint = did_you_mean(str(key), SECTIONS) or f": it has {', '.join(SECTIONS)}"
                raise LitVizError(f"{source} has the key {key}{hint}")
            if key in SECTIONS and not isinstance(value, (Mapping, type(None))):
                raise LitVizError(f"{key} of {source} must be a mapping, got {value!r}")
        form = cls(**{name: deepcopy(dict(values.get(name) or {})) for name in SECTIONS})
        for section in (form.module, form.tasks):
            section.setdefault("init_args", {})
        return form

    def copy(self) -> Form:
        """Return a form with copied sections; objects in it are shared."""
        return Form(**{name: _copied(getattr(self, name)) for name in SECTIONS})

    def to_yaml(self) -> str:
        """Return the form as YAML."""
        sections = {name: plain_arguments(getattr(self, name)) for name in SECTIONS if getattr(self, name)}
        text: str = yaml.safe_dump(plain(sections), sort_keys=False, allow_unicode=True)
        return text

    def owners(self) -> Iterator[Owner]:
        yield from super().owners()
        yield from (RUN, LOGGING, TRAINER, NETWORK)

    # Objects

    def runs(self) -> list[Form]:
        """Return the form of each run: of several attacks one each, in a folder of its name in ``out``.

        Attacks without a radius have no task for each of several radii.
        """
        attacks = self.module.get("init_args", {}).get("attack")
        if not isinstance(attacks, list):
            return [self]
        forms: list[Form] = []
        names: list[str] = []
        for attack in attacks:
            form = self.copy()
            form.choose("attack", [attack])
            (part,) = (owner for owner in form.parts() if owner.label == "attack")
            name = short_name(part.kind)
            names.append(name)
            vary = form.tasks["init_args"].get("vary") or {}
            if "eps" not in part.names:
                vary.pop("eps", None)
            if form.run.get("out") is not None:
                number = names.count(name)
                folder = name if number == 1 else f"{name}_{number}"
                form.run["out"] = str(Path(form.run["out"], folder))
            forms.append(form)
        return forms

    def build(self, network: Network) -> tuple[ImageTraining, TaskQueue]:
        """Return the module and the tasks.

        A network that is given tiles of another size has inputs of that size.
        """
        tile = (self.tasks.get("init_args") or {}).get("tile")
        if isinstance(tile, int) and network.size != (tile, tile):
            require(tile > 0, "tile must be positive", tile)
            network = at_size(network, (tile, tile))
        if network.output.is_open:
            from lit_viz.launch.answers import with_answers

            network = with_answers(network, self.tasks["init_args"], self.module["init_args"].get("fit"))
        return self.build_module(network), self.build_tasks(network)

    def options(self) -> RunOptions:
        """Return the options of the run."""
        hints = hints_of(RunOptions)
        arguments: dict[str, Any] = {}
        for name, value in self.run.items():
            if name not in hints:
                raise LitVizError(f"{name} is not an argument of run{did_you_mean(str(name), hints)}")
            arguments[name] = construct(value, hints[name], name)
        return RunOptions(**arguments)

    @classmethod
    def of(cls, module: ImageTraining, tasks: TaskQueue, options: RunOptions) -> Form:
        """Return the form of objects, with all arguments as plain values."""
        return cls(**tasks.form_with(module), run=plain_arguments(options.recorded()))

    def instances(self) -> Iterator[str]:
        """Yield the class names of the objects that the form could not write."""
        yield from _instances_in([self.module, self.run])


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _instances_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _instances_in(item)
    elif isinstance(value, str) and has_instances(value):
        yield value.removesuffix(INSTANCE)


# -- packaged configurations


def config_names(method: str) -> list[str]:
    """Return the names of the packaged configurations of a method."""
    return sorted(path.stem for path in (config_folder() / method).glob("*.yaml"))


def find_config(method: str, name: str | Path) -> Path:
    """Return the file of a configuration, which is given by its path or by the name of a packaged one."""
    if Path(name).is_file():
        return Path(name)
    packaged = config_folder() / method / f"{name}.yaml"
    if packaged.is_file() and packaged.stem == str(name):
        return packaged
    check_regular(name)
    raise unknown_configuration(str(name), config_names(method))
