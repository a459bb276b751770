"""Completion of the command line, as a file for the shell: pressing TAB imports nothing of Python."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from lit_viz.attacks import ATTACKS
from lit_viz.attacks.norms import NORMS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.attributions.reducers import REDUCERS
from lit_viz.engine.ranks import DevicesMode
from lit_viz.errors import LitVizError
from lit_viz.figures.scales import ScaleOf
from lit_viz.images.reading import Fit
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.commands.base import Command
from lit_viz.launch.config import build_parser, config_folder
from lit_viz.launch.parser_errors import SHORT
from lit_viz.loggers import LOGGERS
from lit_viz.loggers.base import WandbMode
from lit_viz.presentations import Check, FigureFormat

#: Values of options that are completed, beside files.
_VALUES: Mapping[str, Sequence[str]] = {
    "--attack": list(ATTACKS),
    "--check": get_args(Check),
    "--devices-mode": get_args(DevicesMode),
    "--figure": get_args(FigureFormat),
    "--fit": get_args(Fit),
    "--logger": [*LOGGERS, "none"],
    "--method": list(ATTRIBUTIONS),
    "--norm": list(NORMS),
    "--reducer": list(REDUCERS),
    "--scale": get_args(ScaleOf),
    "--to": list(LOGGERS),
    "--trainer.accelerator": ["auto", "cpu", "gpu"],
    "--trainer.precision": ["32-true", "64-true", "16-mixed", "bf16-mixed"],
    "--wandb": get_args(WandbMode),
}
#: Options of commands that are no methods.
_OPTIONS = {
    "demo": ("--out", "--resume", "--overwrite", "--iterations"),
    "check": ("--faithfulness", "--trust"),
    "resume": (
        "--slots",
        "--devices",
        "--logger",
        "--wandb",
        "--project",
        "--tags",
        "--figure",
        "--trainer.accelerator",
    ),
    "log": ("--to", "--project", "--tags", "--group", "--job-type", "--wandb"),
    "classes": ("--network", "--network.labels"),
    "layers": ("--network.weights", "--network.size"),
}
_FOLDERS = ("--out",)
_FILES = ("--boxes", "--init", "--network.weights", "--network.labels")
_COMMANDS_OF_FOLDERS = ("check", "resume", "log", "epochs")
_FLAGS = ("--faithfulness", "--trust", "--resume", "--overwrite")


def completion_script(shell: str, summaries: Mapping[str, str]) -> str:
    """Return the completion of all commands and options as a script of a shell.

    Args:
        shell: ``bash``, ``zsh``, ``fish`` or another one of shtab.
        summaries: what each command does, by its name.

    Raises:
        LitVizError: shtab is not installed, or does not support the shell.
    """
    try:
        import shtab
    except ImportError as error:
        raise LitVizError("completion requires shtab: pip install shtab") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise LitVizError(f"the shell must be one of {', '.join(shtab.SUPPORTED_SHELLS)}, got {shell!r}")
    parser = ArgumentParser(prog="lit-viz")
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for name, summary in summaries.items():
        of_command = subparsers.add_parser(name, help=summary)
        if name in SUMMARIES:
            _add_method(of_command, COMMANDS[name])
            continue
        for option in _OPTIONS.get(name, ()):
            _add_option(of_command, option, "", option in _FLAGS)
        if name in _COMMANDS_OF_FOLDERS:
            _complete(of_command.add_argument("folder"), "DIRECTORY")
    script: str = shtab.complete(parser, shell)
    return script


def _add_method(parser: ArgumentParser, command: Command) -> None:
    """Add the options of a method, each by its shortest name."""
    options = {**SHORT, **command.short}
    short = {option: name for name, option in options.items()}
    texts = dict.fromkeys(options, "")
    flags = set()
    for action in build_parser(type(command))._actions:
        option = f"--{action.dest}"
        if option not in action.option_strings or action.help == SUPPRESS or option in ("--config", "--help"):
            continue
        name = short.get(option, option)
        if "." not in name:
            name = f"--{name[2:].replace('_', '-')}"
        texts[name] = str(action.help)
        if action.nargs == 0:
            flags.add(name)
    configurations = [path.stem for path in sorted((config_folder() / command.name).glob("*.yaml"))]
    parser.add_argument("--help-all", action="store_true", help="list all options")
    parser.add_argument("--config", choices=configurations, help="configuration")
    for name, text in texts.items():
        _add_option(parser, name, text, name in flags)
    _complete(parser.add_argument(command.positional, nargs="*"), "FILE")


def _add_option(parser: ArgumentParser, name: str, text: str, is_flag: bool) -> None:
    text = text.replace("%", "%%")
    if is_flag:
        parser.add_argument(name, action="store_true", help=text)
        return
    option = parser.add_argument(name, help=text, choices=_VALUES.get(name))
    if name in _FOLDERS:
        _complete(option, "DIRECTORY")
    elif name in _FILES:
        _complete(option, "FILE")


def _complete(action: Action, kind: Literal["FILE", "DIRECTORY"]) -> None:
    """Complete the values of an argument by files or folders."""
    import shtab

    action.complete = getattr(shtab, kind)  # type: ignore[attr-defined]
