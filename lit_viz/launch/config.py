"""Configuration of a run: one parser per method for YAML files, dotted options and Python dictionaries.

Each part of a method is selected by its ``class_path``, and options of the Trainer are available under ``--trainer.``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import sys
import threading
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import CompileMode
from lit_viz.classifiers.sources import current_folder_importable
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.ranks import DevicesMode
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.arguments import PARSER_ERRORS, ClassifierOptions, add_logger_options, parser_error
from lit_viz.launch.commands.base import Command
from lit_viz.presentations import Presentation, presentation_of
from lit_viz.runs import RECORDED
from lit_viz.utils.files import check_regular, read_yaml

#: jsonargparse has process-wide state while it parses.
_PARSING = threading.RLock()
#: Arguments of methods that the command supplies, so that they are no options under ``--model.``.
_SUPPLIED_ARGUMENTS = {"classifier", "iterations", "slots", "log_at", "curve_at", "fit", "images", "init", "picture"}
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
#: Mark of a part in config.yaml that was passed as an instance in Python, after the name of its class.
INSTANCE = " (instance)"
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
def build_parser(kind: type[Command], is_help: bool = False) -> ArgumentParser:
    """Return the parser of a command: its own options, and those of the classifier, the method and the Trainer.

    The defaults in the help are those of the default configuration, which otherwise is an argument of the parser.
    """
    command, prog = kind(), f"lit-viz {kind.name}"
    parser = ArgumentParser(
        exit_on_error=False,
        prog=prog,
        usage=f"{prog} [{command.positional.upper()} ...] [--classifier NAME] [--out RUN] ...",
        description=(
            f"{command.__doc__} {command.shorts} Options that are not given are taken from --config NAME "
            f"[{command.default_config}]; its values are the defaults below. Example: {command.example}"
        ),
        default_config_files=[str(find_config(command.name, command.default_config))] if is_help else [],
        dump_header=[f"pytorch_lightning=={metadata.version('pytorch-lightning')}"],
    )
    parser.add_argument("--config", action="config", help="Path to a configuration file in json or yaml format.")
    command.add_arguments(parser)
    _add_common_arguments(parser, command)
    parser.add_class_arguments(ClassifierOptions, "classifier", instantiate=False)
    flat = {name for options in command.flat for name in signature(options).parameters}
    skip: set[str | int] = {*_SUPPLIED_ARGUMENTS, *flat}
    parser.add_class_arguments(command.module, "model", skip=skip, instantiate=False, sub_configs=True)
    groups = parser.groups or {}
    for options in command.flat:
        groups["model"].add_class_arguments(options, "model", as_group=False, sub_configs=True)
    parser.add_class_arguments(pl.Trainer, "trainer", skip=set(_FIXED_TRAINER_ARGUMENTS), instantiate=False)
    parser.set_defaults({"trainer.devices": 1})
    for action in parser._actions:
        for pattern, replacement in _MARKUP:
            action.help = action.help and re.sub(pattern, replacement, action.help)
        if action.dest == "classifier":
            action.metavar, action.help = "NAME", "short for --classifier.name"
    groups["classifier"].title = "The network"
    groups["model"].title = f"The method ({command.module.__name__})"
    groups["trainer"].title = "Lightning's Trainer: devices and precision"
    return parser


class ConfiguredMethod:
    """The configuration of a method, parsed, and its instantiated parts.

    Args:
        command: the method.
        args: arguments as :func:`~lit_viz.launch.arguments.rewrite_arguments` returns them, or options by name.

    Attributes:
        parser: parser of the command.
        config: resolved configuration, plain values.
        parts: instantiated arguments of the method.

    Raises:
        LitVizError: an invalid argument.
    """

    def __init__(self, command: Command, args: Sequence[str] | Mapping[str, Any]) -> None:
        self.command = command
        with _PARSING, current_folder_importable():
            parser = self.parser = build_parser(type(command), is_help="--help" in args)
            try:
                if isinstance(args, Mapping):
                    self.config = parser.parse_object(dict(args))
                else:
                    self.config = parser.parse_args([word for word in args if word != "--print_config"])
                if self.config.out == "":
                    raise LitVizError("--out must not be empty")
                for action in parser._actions:
                    if action.default not in (None, SUPPRESS) and self.config.get(action.dest, "") is None:
                        raise LitVizError(f"--{action.dest} must not be null")
                command.settle(self.config)
                if "--print_config" in args:  # includes what the command has resolved
                    parser.parse_args(["--config", parser.dump(self.config), "--print_config"])
                parts = parser.instantiate(self.config).model.items(branches=False)
            except PARSER_ERRORS as error:
                raise parser_error(error, parser, command.short) from error
        self.parts = {name: copy.copy(part) for name, part in parts}  # instances of the user are not modified

    @property
    def presentation(self) -> Presentation:
        """Presentation of the outcomes."""
        return presentation_of(self.command.method(self.config))

    def build(self, classifier: Classifier) -> ImageTraining:
        """Return the method."""
        return self.command.build(self.config, self.parts, classifier)

    def dump(self) -> str:
        """Return the resolved configuration as YAML."""
        with _PARSING, contextlib.redirect_stdout(io.StringIO()):
            text: str = self.parser.dump(without_instances(self.config), skip_validation=True)
        return text


def without_instances(part: Any) -> Any:
    """Return a configuration with a text in place of each instance that was passed in Python."""
    if isinstance(part, Namespace):
        return Namespace(**{name: without_instances(value) for name, value in vars(part).items()})  # type: ignore[no-untyped-call]
    if isinstance(part, (list, tuple)):
        return [without_instances(value) for value in part]
    is_plain = part is None or isinstance(part, (str, int, float, dict, Path))
    return part if is_plain else f"{type(part).__name__}{INSTANCE}"


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
    if RECORDED not in options:
        return options
    other = (options[RECORDED] or {}).get("method")
    if other != method:
        raise LitVizError(f"{path} is the configuration of a {other} run, not {method}: use lit-viz {other}")
    return {key: value for key, value in options.items() if key not in _RUN_KEYS}


def config_argument(method: str, name: str) -> str:
    """Return the value of the parser's ``--config``, the options of a configuration as text."""
    return yaml.safe_dump(read_config(method, name), sort_keys=False)


def with_config(command: Command, arguments: Sequence[str]) -> list[str]:
    """Return arguments with the content of each ``--config``, by default that of the command."""
    if "--config" not in arguments:
        arguments = ["--config", command.config_for(arguments), *arguments]
    words = [
        config_argument(command.name, word) if option == "--config" else word
        for option, word in zip(["", *arguments], arguments, strict=False)
    ]
    for key, classes in command.listed.items():
        words = _with_listed_options(words, key, classes)
    return words


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
        value = yaml.safe_load(words[words.index(option) + 1])
    else:
        value = yaml.safe_load(words[words.index("--config") + 1])["model"][key]
    values = value if isinstance(value, list) else [value]
    parts: list[dict[str, Any]] = [{"class_path": part} if isinstance(part, str) else dict(part) for part in values]
    for place, match in own.items():
        named = [part for part in parts if part["class_path"].rpartition(".")[2] == classes[match[1]].__name__]
        if not named:
            raise LitVizError(f"--{key}.{match[1]}.{match[2]} requires --{key} {match[1]}")
        for part in named:
            part["init_args"] = {**part.get("init_args", {}), match[2]: yaml.safe_load(words[place + 1])}
    others = [word for place, word in enumerate(words) if place not in own and place - 1 not in own]
    if option in others:
        place = others.index(option)
        others = [*others[:place], *others[place + 2 :]]
    return [*others[:2], option, json.dumps(parts if len(parts) > 1 else parts[0]), *others[2:]]


def set_option(options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option in a nested configuration."""
    *path, last = name.split("__")
    for key in path:
        options = _init_args(options, key)
        if isinstance(options.get(key), str):  # a part without arguments
            options[key] = {"class_path": options[key]}
        options = options.setdefault(key, {})
    value = str(value) if isinstance(value, Path) else value
    _init_args(options, last)[last] = value.item() if getattr(value, "ndim", None) == 0 else value


def _init_args(options: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the arguments of a part if the options are those of a part."""
    is_part = "class_path" in options and key not in ("class_path", "init_args")
    return options.setdefault("init_args", {}) if is_part else options
