"""The configuration of a run: one parser a method for YAML files, dotted options and Python dictionaries alike.

The parser is LightningCLI's, so every part of a method can be swapped by its ``class_path`` and every option of the
Trainer is there under ``--trainer.``.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from lit_viz.classifiers.fast import CompileMode
from lit_viz.classifiers.sources import current_folder_importable
from lit_viz.engine.distributed import DevicesMode
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.commands.base import Command
from lit_viz.launch.options import REFUSALS, ClassifierOptions, one_sentence
from lit_viz.loggers import WandbMode
from lit_viz.runs.layout import RECORDED
from lit_viz.utils.files import read_yaml

#: What the Trainer is given by lit_viz itself, or what would make no sense of a run.
_TRAINER_OURS = {
    "max_epochs", "max_steps", "min_epochs", "min_steps", "max_time", "callbacks", "logger", "plugins", "fast_dev_run",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode", "default_root_dir",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "barebones",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry", "sync_batchnorm",
}  # fmt: skip
#: What the config.yaml of a run holds that makes no sense of another.
_OF_ONE_RUN = (RECORDED, "out", "overwrite", "resume", "count")


def _add_common(parser: LightningArgumentParser, command: Command) -> None:
    add = parser.add_argument
    add(
        "--iterations",
        type=int | None,
        default=command.iterations,
        help="updates an image; evaluations of an estimator",
    )
    add("--seed", type=int, default=0, help="seed of the run; task i draws with seed + i")
    add("--slots", type=int, default=command.slots, help="images trained at once")
    add(
        "--log_at",
        type=str | int,
        default=command.log_at,
        help="iterations to keep: 1,50,200, every:10, geometric, last",
    )
    add("--curve_at", type=str | int, default=command.curve_at, help="iterations whose scalars are logged")
    add("--out", type=str | None, default=None, help="run folder [runs/<method>/<UTC time>_<first target>]")
    add("--overwrite", action="store_true", help="replace a run that is there")
    add("--resume", action="store_true", help="continue the run that is there; start it if there is none")
    add("--count", action="store_true", help="only print the evaluations and the time this would take")
    add("--wandb", type=WandbMode, default="auto", help="auto is online with an API key and offline without")
    add("--project", type=str | None, default=None, help="W&B project; null: WANDB_PROJECT, else lit_viz")
    add("--figure", type=Literal["png", "pdf", "svg"], default="png", help="format of the figure")
    add("--devices_mode", type=DevicesMode, default="images", help="several devices share images, or views of one")
    add(
        "--compile",
        type=CompileMode | None,
        default=None,
        help="let torch.compile compile the network, for GPUs: reduce-overhead replays CUDA graphs",
    )
    add("--checkpoint_every", type=int | None, default=None, help="steps between checkpoints [about 30 seconds]")


#: Markup of docstrings, and what stands there instead in a terminal.
_MARKUP = (
    (r":[\w:]+:`~?(?:\w+\.)*(\w+)`", r"\1"),
    (r"``(.*?)``", r"\1"),
    (r"\s*Default: [^.]*(\.\d[^.]*)?\.$", ""),  # the parser says it, too
)


def _tidy_help(parser: LightningArgumentParser, method: str) -> None:
    """Let the help of options that are taken from docstrings read as the others' does."""
    for action in parser._actions:
        for pattern, plain in _MARKUP:
            action.help = action.help and re.sub(pattern, plain, action.help)
        if action.dest == "classifier":
            action.metavar, action.help = "NAME", "the same as --classifier.name"
    titles = {"classifier": "The network", "model": method, "trainer": "Lightning's Trainer: devices and precision"}
    for name, title in titles.items():
        (parser.groups or {})[name].title = title


class MethodCLI(LightningCLI):
    """LightningCLI that parses a method's configuration and instantiates its parts.

    Attributes:
        config: the resolved configuration, plain values.
        parts: the method's parts, instantiated.

    Raises:
        LitVizError: in one sentence, for whatever the parser refuses.
    """

    def __init__(self, command: Command, args: Sequence[str] | Mapping[str, Any]) -> None:
        self.command = command
        bare = command.positional.upper()
        super().__init__(
            command.module,
            run=False,
            args=args,  # type: ignore[arg-type]
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={
                "exit_on_error": False,
                "prog": f"lit-viz {command.name}",
                "usage": f"lit-viz {command.name} [{bare} ...] [--classifier NAME] [--out RUN] ...",
                "description": (
                    f"{command.__doc__} {command.shorts} What is not given is as --config NAME says, or "
                    f"{command.default_config} where none is named, whose values are the defaults below. "
                    f"Example: {command.example}"
                ),
                # Else config_first() names it, in whose place another may stand.
                "default_config_files": [str(find_config(command.name, command.default_config))] * ("--help" in args),
            },
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add nothing: the seed is the run's own, and the global random state is left alone."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the method's, the engine's and the Trainer's options."""
        self.command.add_arguments(parser)
        _add_common(parser, self.command)
        parser.add_class_arguments(ClassifierOptions, "classifier", instantiate=False)
        parser.add_class_arguments(
            self.command.module, "model", skip=set(self.command.own), instantiate=False, sub_configs=True
        )
        parser.add_class_arguments(pl.Trainer, "trainer", skip=set(_TRAINER_OURS), instantiate=False)
        parser.set_defaults({"trainer.devices": 1})
        _tidy_help(parser, f"The method ({self.command.module.__name__})")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a list of words or a dictionary, and nothing else: not the program's own words behind its back."""
        given = isinstance(args, Mapping)
        printing = ["--print_config"] if "--print_config" in args else []
        try:
            with current_folder_importable():
                if given:
                    self.config = parser.parse_object(dict(args))
                else:
                    self.config = parser.parse_args([word for word in args if word not in printing])
                if self.config.out == "":
                    raise LitVizError("--out is an empty word: give it a folder, or leave it out.")
                self.command.settle(self.config)
                if printing:  # what was settled, too
                    parser.parse_args(["--config", parser.dump(self.config), *printing])
        except REFUSALS as error:
            raise one_sentence(error, parser) from error

    def _set_seed(self) -> None:
        pass

    def _add_instantiators(self) -> None:
        pass  # they would note hyperparameters; the run folder has the whole configuration

    def instantiate_classes(self) -> None:
        """Instantiate the method's parts; the module itself wants a loaded classifier first."""
        try:
            with current_folder_importable():
                self.parts = dict(self.parser.instantiate(self.config).model.items(branches=False))
        except REFUSALS as error:
            raise one_sentence(error, self.parser) from error


# -- files


def config_folder() -> Path:
    """Return the folder of the packaged configurations (in a checkout it lies at the top level)."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(method: str, name: str) -> Path:
    """Return the file of a configuration, given as a path or as the name of a packaged one.

    Raises:
        LitVizError: where there is none; the packaged ones are listed.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = {path.stem: path for path in sorted((config_folder() / method).glob("*.yaml"))}
    if name in packaged:
        return packaged[name]
    near = did_you_mean(name, packaged) or f": give a YAML file, or one of {', '.join(packaged)}."
    raise LitVizError(f"there is no configuration {name}{near}")


def read_config(method: str, name: str) -> dict[str, Any]:
    """Return the options of a configuration that is named as for :func:`find_config`.

    The ``config.yaml`` of a run serves, too: what it was made with, and where, is left out.
    """
    path = find_config(method, name)
    options = read_yaml(path)
    if RECORDED in options:
        made_by = (options[RECORDED] or {}).get("method")
        if made_by != method:
            raise LitVizError(f"{path} is of a run of lit-viz {made_by}, not {method}: give it to lit-viz {made_by}.")
        options = {key: value for key, value in options.items() if key not in _OF_ONE_RUN}
    return options


def config_argument(method: str, name: str) -> str:
    """Return a configuration as the parser's ``--config`` takes it: its file, or of a run its options as text."""
    path = find_config(method, name)
    return yaml.safe_dump(read_config(method, name)) if RECORDED in read_yaml(path) else str(path)


def config_first(command: Command, words: Sequence[str]) -> list[str]:
    """Return the words of a command with its configurations in front, the default one where none is named.

    Wherever ``--config`` stands on the line, what is said beside it counts more than what it holds. Then come the parts
    of the method, so that a part's own options may stand before it.

    Args:
        command: the method's.
        words: as :func:`~lit_viz.launch.argv.rewrite` leaves them.
    """
    names: list[str] = []
    parts: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            names.append(rest.pop(0))
        elif re.fullmatch(r"--model\.\w+\+?", word) and rest:
            parts += [word, rest.pop(0)]
        else:
            others.append(word)
    chosen = [config_argument(command.name, name) for name in names or [command.config_for(words)]]
    return [*(word for config in chosen for word in ("--config", config)), *parts, *others]


def dump(cli: MethodCLI, recorded: Mapping[str, Any]) -> str:
    """Return the resolved configuration as YAML, with what the run records of itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        text: str = cli.parser.dump(cli.config)
    return text + yaml.safe_dump({RECORDED: json.loads(json.dumps(recorded))}, sort_keys=False, allow_unicode=True)
