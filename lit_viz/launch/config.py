"""Configuration of a run: one parser per method for YAML files, dotted options and Python dictionaries.

Each part of a method is selected by its ``class_path``, and options of the Trainer are available under ``--trainer.``.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from argparse import SUPPRESS, Action
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.ranks import DevicesMode
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.arguments import NetworkOptions, add_logger_options
from lit_viz.launch.commands import extra_files
from lit_viz.launch.commands.base import COMMON, TASK_OPTIONS, Command
from lit_viz.launch.options import RunOptions, default_folder, loggers_of
from lit_viz.launch.parser_errors import PARSER_ERRORS, parser_error
from lit_viz.loggers.base import LoggerSettings
from lit_viz.networks import Network
from lit_viz.networks.fast import CompileMode
from lit_viz.networks.isolation import is_out_of_memory
from lit_viz.networks.loading import load
from lit_viz.networks.network import GIVEN_WEIGHTS
from lit_viz.networks.sources import current_folder_importable
from lit_viz.outputs import configured_output
from lit_viz.presentations import EvidenceOptions, FigureOptions, Presentation, presentation_of
from lit_viz.runs import QUEUE, RECORDED, is_run
from lit_viz.runs.folder import FolderStorage, check_new
from lit_viz.utils.files import check_regular
from lit_viz.utils.parts import constructor_parameters
from lit_viz.utils.process import is_rank_zero
from lit_viz.utils.yaml_files import parse_yaml, read_yaml

#: jsonargparse has process-wide state while it parses.
_PARSING = threading.RLock()
_VIEW = (128, 128)  # of the configuration channels
_SMALL = 64  # pixels; images of the configuration small
#: Arguments of methods that the command supplies, so that they are no options under ``--model.``.
_SUPPLIED_ARGUMENTS = {*COMMON, "network", "images", "init", "picture", "held_out"}
with contextlib.suppress(TypeError):  # jsonargparse before 4.53 imports a class_path before it checks its base class
    set_parsing_settings(import_path_denylist=sorted(sys.stdlib_module_names))

#: Trainer arguments that lit_viz sets itself, or that have no meaning for a run.
_FIXED_TRAINER_ARGUMENTS = {
    "max_epochs", "max_steps", "min_epochs", "min_steps", "max_time", "callbacks", "logger", "plugins", "fast_dev_run",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode", "default_root_dir",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "barebones",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry", "sync_batchnorm",
}  # fmt: skip
#: Keys of a run's config.yaml that do not apply to another run.
_RUN_KEYS = (RECORDED, "out", "overwrite", "resume", "count")
#: Docstring markup, and its replacement in the help.
_MARKUP = (
    (r":[\w:]+:`~?(?:\w+\.)*(\w+)`", r"\1"),
    (r"``(.*?)``", r"\1"),
    (r"\s*Default: [^.]*(\.\d[^.]*)?\.$", ""),  # the parser adds the default
)


def _add_common_arguments(parser: ArgumentParser, command: Command) -> None:
    add = parser.add_argument
    add("--iterations", type=int | None, default=command.iterations, help="updates per image; evaluations per map")
    add("--seed", type=int, default=0, help="seed of the run; task i uses seed + i")
    add("--slots", type=int, default=command.slots, help="batch size: images optimized at the same time")
    log_help = "iterations to save: 1,50,200, every:10, geometric, last"
    add("--log_at", type=str | int, default=command.log_at, help=log_help)
    add("--curve_at", type=str | int, default=command.curve_at, help="iterations whose metrics are logged")
    add("--out", type=str | None, default=None, help="run folder [runs/<method>/<UTC time>_<first target>]")
    add("--overwrite", action="store_true", help="replace an existing run")
    add("--resume", action="store_true", help="continue an existing run; start it if there is none")
    add("--count", action="store_true", help="print the number of evaluations and the estimated time only")
    logger_help = "loggers of the run folder: wandb,tensorboard,mlflow,csv, or none"
    add("--logger", type=list[str] | str, default="wandb", help=logger_help)
    add_logger_options(add)
    add("--figure", type=Literal["png", "pdf", "svg"], default="png", help="format of the figure")
    mode_help = "devices share the images, or the views of each image"
    add("--devices_mode", type=DevicesMode, default="images", help=mode_help)
    compile_help = "torch.compile the network, for GPUs; reduce-overhead replays CUDA graphs"
    add("--compile", type=CompileMode | None, default=None, help=compile_help)
    add("--checkpoint_every", type=int | None, default=None, help="steps between checkpoints [about 30 seconds]")


@cache  # to build a parser takes longer than to parse
def build_parser(kind: type[Command], module: type[Any] | None = None, is_help: bool = False) -> ArgumentParser:
    """Return the parser of a command: its own options, and those of the network, the method and the Trainer.

    Args:
        kind: class of the command.
        module: class of the method, if it is not the command's own.
        is_help: whether the defaults are those of the default configuration, which otherwise is an argument.
    """
    command, prog = kind(), f"lit-viz {kind.name}"
    module = module or command.module
    parser = ArgumentParser(
        exit_on_error=False,
        prog=prog,
        usage=f"{prog} [{command.positional.upper()} ...] [--network NAME] [--out RUN] ...",
        description=(
            f"{command.__doc__} {command.shorts} Options that are not given are taken from --config NAME "
            f"[{command.default_config}]; its values are the defaults below. Example: {command.example}"
        ),
        formatter_class=_HelpFormatter,
        default_config_files=[str(find_config(command.name, command.default_config))] if is_help else [],
        dump_header=[f"pytorch_lightning=={metadata.version('pytorch-lightning')}"],
    )
    parser.add_argument("--config", action="config", help="Path to a configuration file in json or yaml format.")
    command.add_arguments(parser)
    _add_common_arguments(parser, command)
    parser.add_class_arguments(NetworkOptions, "network", instantiate=False)
    flat = {name for options in command.flat for name in signature(options).parameters}
    skip: set[str | int] = {*_SUPPLIED_ARGUMENTS, *flat}
    parser.add_class_arguments(module, "model", skip=skip, instantiate=False, sub_configs=True)
    groups = parser.groups or {}
    for options in command.flat:
        groups["model"].add_class_arguments(options, "model", as_group=False, sub_configs=True)
    parser.add_class_arguments(pl.Trainer, "trainer", skip=set(_FIXED_TRAINER_ARGUMENTS), instantiate=False)
    parser.set_defaults({"trainer.devices": 1})
    for action in parser._actions:
        for pattern, replacement in _MARKUP:
            action.help = action.help and re.sub(pattern, replacement, action.help)
        if action.dest == "network":
            action.metavar, action.help = "NAME", "short for --network.name"
    groups["network"].title = "The network"
    groups["model"].title = f"The method ({module.__name__})"
    groups["trainer"].title = "Lightning's Trainer: devices and precision"
    return parser


class _HelpFormatter(DefaultHelpFormatter):
    """Name parts by their classes, and offer the classes of their own package only."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action).replace("%(default)s", _default_text(action.default))
        text, known, classes = text.partition(", known subclasses: ")
        if not known:
            return text
        paths = classes.removesuffix(")").split(", ")
        package = ".".join(paths[0].split(".")[:2])
        names = [path.rpartition(".")[2] for path in paths if path.startswith(f"{package}.")]
        return f"{text}, classes: {', '.join(names)})"


def _default_text(value: Any) -> str:
    """Return a default value in the help; a part is named by its class, with its arguments."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_default_text, value))}]"
    part = value.as_dict() if isinstance(value, Namespace) else value
    if not isinstance(part, Mapping) or "class_path" not in part:
        return str(part)
    arguments = part.get("init_args") or {}
    texts = [f"{name}={_default_text(argument)}" for name, argument in arguments.items()]
    return f"{part['class_path'].rpartition('.')[2]}({', '.join(texts)})"


def all_options(command: Command) -> str:
    """Return the help of a method with all options and the defaults of its default configuration."""
    text = build_parser(type(command), is_help=True).format_help()
    return re.sub(r"default config file locations:\n(?:  .*\n)+\n", "", text)


class ConfiguredMethod:
    """The configuration of a run, parsed, and the objects that it describes.

    Args:
        command: the method.
        arguments: arguments as :func:`~lit_viz.launch.arguments.rewrite_arguments` returns them.
        module: class of the method, if it is not that of the command.

    Attributes:
        config: resolved configuration, plain values.
        parts: instantiated arguments of the method.

    Raises:
        LitVizError: an invalid argument.
    """

    def __init__(self, command: Command, arguments: Sequence[str], module: type[Any] | None = None) -> None:
        self.command = command
        self._module = module
        _check_tags(arguments)
        with _PARSING, current_folder_importable():
            parser = build_parser(type(command), module)  # type: ignore[arg-type]
            try:
                self.config = parser.parse_args([word for word in arguments if word != "--print_config"])
                self._check_nulls(parser)
                command.settle(self.config)
                if "--print_config" in arguments:  # includes what the command has resolved
                    parser.parse_args(["--config", parser.dump(self.config), "--print_config"])
                self.parts = dict(parser.instantiate(self.config).model.items(branches=False))
            except PARSER_ERRORS as error:
                raise parser_error(error, parser, command.short) from error

    def _check_nulls(self, parser: ArgumentParser) -> None:
        if self.config.out == "":
            raise LitVizError("--out must not be empty")
        for action in parser._actions:
            if action.default not in (None, SUPPRESS) and self.config.get(action.dest, "") is None:
                raise LitVizError(f"--{action.dest} must not be null")

    @property
    def method(self) -> type[Any]:
        """Class of the method."""
        return self._module or self.command.method(self.config)

    @property
    def presentation(self) -> Presentation:
        """Presentation of the outcomes."""
        return presentation_of(self.method)

    def load_network(self) -> Network:
        """Load the configured network.

        Raises:
            LitVizError: it was passed as a Python module, it can't be loaded, or there is not enough memory.
        """
        options = self.config.network.as_dict()
        name = options.pop("name")
        if options["weights"] == GIVEN_WEIGHTS:
            raise LitVizError(
                f"the run was started with a Python module ({name}): continue in Python with "
                "lit_viz.resume(folder, network) or check(folder, network)"
            )
        try:
            return load(name, output=configured_output(options.pop("output", None)), **options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise LitVizError(
                f"out of memory while {name} is loaded: its weights or inputs need more than there is"
            ) from error

    def module_arguments(self) -> dict[str, Any]:
        """Return the arguments of the module: its instantiated parts and the common options."""
        names = constructor_parameters(self.method)
        arguments = self.command.module_arguments(self.config, self.parts)
        return {name: value for name, value in arguments.items() if name in names}

    def build(self, network: Network) -> ImageTraining:
        """Return the module.

        The initial image of a class image that can't be read any more is left out where the run has tasks: finished
        tasks do not need it, and the module rejects unfinished ones.
        """
        known = self.module_arguments()
        try:
            module: ImageTraining = self.method(network, **known)
        except LitVizError:
            if not (known.get("init") and self.config.resume and Path(str(self.config.out), QUEUE).exists()):
                raise
            module = self.method(network, **{**known, "init": None})
            module.record_argument("init", known["init"])
        return module

    def check(self) -> None:
        """Validate the configuration before anything is loaded.

        Raises:
            LitVizError: an option is invalid, or the run folder holds a run that is neither continued nor replaced.
        """
        config = self.config
        self.command.check(config)
        options = self.options()
        assert options.logger_names is not None
        is_continued = options.out is not None and options.resume and is_run(options.out)
        if options.out is not None and not is_continued and is_rank_zero():  # other ranks find the folder of rank zero
            check_new(options.out, options.overwrite, extra_files())

    def choose_folder(self) -> None:
        """Choose a new run folder if none is given."""
        config = self.config
        if config.out is None:
            layer = getattr(config, "layer", None)
            first = next(iter(getattr(config, self.command.positional)), layer or self.command.name)
            config.out = str(default_folder(self.command.name, first))

    def module_and_tasks(self) -> tuple[ImageTraining, TaskQueue]:
        """Load the network, and return module and tasks; those of the run folder if a run is continued."""
        module = self.build(self.load_network())
        is_resumed = self.config.resume and self.config.out is not None and is_run(self.config.out)
        return module, self.stored_tasks(module) if is_resumed else self.tasks(module)

    def tasks(self, module: ImageTraining) -> TaskQueue:
        """Return the tasks of a module."""
        return self.command.tasks(self.config, module)

    def stored_tasks(self, module: ImageTraining) -> TaskQueue:
        """Return the tasks of a run folder that is resumed, or those of the configuration if it has none yet."""
        stored = FolderStorage(self.config.out).queue()
        if not stored:
            return self.tasks(module)
        queue = TaskQueue(stored)
        queue.options = {name: self.config[name] for name in TASK_OPTIONS if name in self.config}
        return queue

    def options(self) -> RunOptions:
        """Return the other options of the run."""
        config = self.config
        evidence = {name: config[name] for name in ("check", "localize", "boxes", "explain") if name in config}
        scale, overlays = config.get("scale", "shared"), config.get("overlays", False)
        return RunOptions(
            out=None if config.out is None else Path(config.out),
            logger=loggers_of(config.logger),
            logger_settings=settings_of(config),
            trainer=config.trainer.as_dict(),
            evidence=EvidenceOptions(**evidence),
            figure=FigureOptions(config.figure, scale, overlays),
            resume=config.resume,
            overwrite=config.overwrite,
            checkpoint_every=config.checkpoint_every,
            moves_network=True,
        )


def settings_of(config: Any) -> LoggerSettings:
    """Return the settings of the loggers in a configuration."""
    tags = config.tags.split(",") if isinstance(config.tags, str) else config.tags or ()
    return LoggerSettings(config.project, list(tags), config.group, config.job_type, config.wandb)


def _check_tags(words: Sequence[str]) -> None:
    """Reject options whose value is not of its YAML tag, ``--seed '!!int x'``; the parser raises any error for them."""
    for option, value in pairwise(words):
        if "!!" in value and option.startswith("--") and option != "--config":
            parse_yaml(value, option)


# -- configuration files


def config_folder() -> Path:
    """Return the folder of the packaged configurations; in a checkout it is at the top level."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(method: str, name: str) -> Path:
    """Return the file of a configuration, which is given by its path or by the name of a packaged one."""
    if Path(name).is_file():
        return Path(name)
    packaged = {path.stem: path for path in sorted((config_folder() / method).glob("*.yaml"))}
    if name in packaged:
        return packaged[name]
    check_regular(name)
    hint = did_you_mean(name, packaged) or f": give a YAML file or one of {', '.join(packaged)}"
    raise LitVizError(f"there is no configuration {name}{hint}")


def read_config(method: str, name: str) -> dict[str, Any]:
    """Return the options of a configuration; of a run's ``config.yaml``, those that apply to another run."""
    path = find_config(method, name)
    options = read_yaml(path)
    check_sections(options, path)
    if RECORDED not in options:
        return options
    other = (options[RECORDED] or {}).get("method")
    if other != method:
        raise LitVizError(f"{path} is the configuration of a {other} run, not {method}: use lit-viz {other}")
    return {key: value for key, value in options.items() if key not in _RUN_KEYS}


def check_sections(options: Mapping[str, Any], path: Path) -> None:
    """Raise a LitVizError for a section of a configuration file that is no mapping, ``model: 0``."""
    for section in ("network", "model", "trainer", RECORDED):
        value = options.get(section, {})
        if not isinstance(value, Mapping):
            raise LitVizError(f"{section} in {path} must be a mapping of options, got {value!r}")


def config_argument(method: str, name: str) -> str:
    """Return the value of the parser's ``--config``, the options of a configuration as text."""
    return yaml.safe_dump(read_config(method, name), sort_keys=False)


def layer_settings(network: Network, config: str | Path | None) -> dict[str, Any]:
    """Return the configuration of the images of a layer, and what a network of a fixed size changes in it.

    The L2 prior of the configuration ``small`` is left out: it outweighs the mean activation of a channel.
    """
    if config is not None:
        return {"config": config}
    if network.accepts(_VIEW):
        return {"config": "channels"}
    if min(network.size) <= _SMALL:
        return {"config": "small", "priors": ()}
    return {"config": "channels", "native": False}


def with_config(command: Command, arguments: Sequence[str]) -> list[str]:
    """Return arguments with the content of each ``--config``, by default that of the command."""
    if "--config" not in arguments:
        arguments = ["--config", command.config_for(arguments), *arguments]
    words = [
        config_argument(command.name, word) if option == "--config" else word
        for option, word in zip(["", *arguments], arguments, strict=False)
    ]
    last = 2 * arguments.count("--config")  # they come first
    words[last:last] = command.implied(arguments)
    for key, classes in command.listed.items():
        words = _with_listed_options(words, key, classes)
    return words


def configured_by(command: Command, name: str) -> ConfiguredMethod:
    """Return the configuration of a file, or of a packaged one by its name."""
    return ConfiguredMethod(command, with_config(command, ["--config", name]))


def _with_listed_options(words: list[str], key: str, classes: Mapping[str, type]) -> list[str]:
    """Move options of one of several parts, ``--model.method.smoothgrad.sigma 0.2``, into the list of parts.

    Raises:
        LitVizError: the part is not in the list.
    """
    option, pattern = f"--model.{key}", re.compile(rf"--model\.{key}\.({'|'.join(classes)})\.(\w+)")
    own = {place: match for place, word in enumerate(words) if (match := pattern.fullmatch(word))}
    if not own:
        return words
    if option in words:
        value = parse_yaml(words[words.index(option) + 1], option)
    else:
        value = yaml.safe_load(words[words.index("--config") + 1])["model"][key]
    values = value if isinstance(value, list) else [value]
    parts: list[dict[str, Any]] = [{"class_path": part} if isinstance(part, str) else dict(part) for part in values]
    for place, match in own.items():
        named = [part for part in parts if part["class_path"].rpartition(".")[2] == classes[match[1]].__name__]
        if not named:
            raise LitVizError(f"--{key}.{match[1]}.{match[2]} requires --{key} {match[1]}")
        for part in named:
            part["init_args"] = {**part.get("init_args", {}), match[2]: parse_yaml(words[place + 1], words[place])}
    others = [word for place, word in enumerate(words) if place not in own and place - 1 not in own]
    if option in others:
        place = others.index(option)
        others = [*others[:place], *others[place + 2 :]]
    return [*others[:2], option, json.dumps(parts if len(parts) > 1 else parts[0]), *others[2:]]
