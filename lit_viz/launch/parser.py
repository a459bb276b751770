"""The command line as argparse parsers: an option for each argument of classes and functions, with its docstring."""

from __future__ import annotations

import argparse
import re
from argparse import SUPPRESS
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytorch_lightning as pl
from docstring_parser import parse as parse_docstring

from lit_viz import api
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.execute import OPTIONS_OF_METHODS, run
from lit_viz.launch.form import LISTS_OF_PARTS, VARYING, Form, Owner, config_names
from lit_viz.launch.methods import COMMANDS, MethodCommand, read_config
from lit_viz.launch.options import FIXED_TRAINER_ARGUMENTS, TRAINER_DEFAULTS
from lit_viz.loggers.base import LoggerSettings
from lit_viz.outputs.loading import load_network
from lit_viz.presentations import presentation_of
from lit_viz.utils.checking import described, matches, types_of
from lit_viz.utils.files import non_utf8_name_error
from lit_viz.utils.parts import Part, classes_in, constructor_parameters, hints_of, named_classes
from lit_viz.utils.yaml_files import parse_yaml

#: Options that ``--help`` of a method shows; ``--help-all`` shows all.
SHOWN = frozenset({
    "target", "label", "against", "layer", "channel", "neuron", "init", "fit", "method", "attack", "eps", "attack.eps",
    "attack.norm", "attack.lr", "goal", "config", "iterations", "step_rule.lr", "views", "picture.size", "tolerance",
    "reducer", "vary", "seed", "slots", "log_at", "out", "overwrite", "resume", "logger", "logging.project",
    "logging.wandb", "figure", "overlays", "captum", "explain", "localize", "network", "network.weights",
    "network.labels", "network.size", "network.mean", "network.std", "network.output", "trainer.devices",
    "trainer.accelerator", "trainer.precision", "count", "print_config",
})  # fmt: skip
#: Arguments of short functions that are no options.
_NO_OPTIONS = ("network", "progress", "normalization")
#: Arguments of the Trainer with a short option.
_SHORT_TRAINER = ("devices", "accelerator", "precision")
#: Arguments of :func:`lit_viz.run` that are no options.
_NOT_OF_RUN = ("module", "tasks", "trainer", "logging", "progress")
#: Number of choices of an option up to which its help lists them in place of a value.
_MOST_CHOICES = 6
#: Docstring markup, and its replacement in the help.
_MARKUP = ((r":[\w:]+:`~?(?:\w+\.)*(\w+)`", r"\1"), (r"``(.*?)``", r"\1"), (r"\s+", " "))
#: Names in other tools, and the option to use.
_OTHER_NAMES = {
    "max_steps": "iterations",
    "max_epochs": "iterations",
    "steps": "iterations",
    "epsilon": "eps",
    "batch_size": "slots",
}


class Parser(argparse.ArgumentParser):
    """A parser whose options are the arguments of classes and functions; its errors are :class:`LitVizError`.

    Args:
        command: name of the command.
        usage: its words in the first line of the help.
        summary: its description.
        example: its words in the example of the help.

    Attributes:
        remarks: sentences that follow the help of options, by name.
        texts: descriptions in place of those of docstrings, by name.
        defaults: values of a configuration, by name, which the help shows in brackets as the other defaults; None to
            show no defaults, which are those of a run or of several configurations.
    """

    def __init__(self, command: str, usage: str = "", summary: str = "", example: str = "") -> None:
        super().__init__(
            prog=f"lit-viz {command}",
            usage=f"lit-viz {command} {usage}".rstrip(),
            description=summary,
            epilog=f"Example: lit-viz {command} {example}" if example else None,
            allow_abbrev=False,
            add_help=False,
            argument_default=SUPPRESS,
            formatter_class=partial(_Formatter, max_help_position=28, width=100),
        )
        self._negative_number_matcher = re.compile(r"-[\d.][\d.,e/-]*$")  # values such as -1,-1 are no options
        self.taken: set[str] = set()
        self.positional = ""
        self.remarks: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.defaults: dict[str, Any] | None = {}
        self._sections: dict[str, argparse._ArgumentGroup] = {}

    def error(self, message: str) -> Any:
        """Raise an error of argparse as one sentence."""
        missing = re.fullmatch(r"argument (\S+?)(?:/\S+)?: expected (?:one|at least one) argument", message)
        if missing:
            raise LitVizError(f"{missing[1]} expects a value")
        flag = re.fullmatch(r"argument (\S+?)(?:/\S+)?: ignored explicit argument (.*)", message)
        if flag:
            raise LitVizError(f"{flag[1]} takes no value, got {flag[2]}")
        raise LitVizError(message)

    def add(
        self,
        title: str,
        target: Any,
        *,
        prefix: str = "",
        short: Collection[str] = (),
        skip: Collection[str] = (),
        only: Collection[str] | None = None,
        shown: Collection[str] | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        """Add an option for each argument of a class or function that has none yet.

        Args:
            title: title of the section in the help; options under the same title are one section.
            target: the class or function.
            prefix: of the names, such as ``attack.``.
            short: arguments that are options without the prefix too.
            skip: arguments without an option.
            only: arguments with an option; all if None.
            shown: names in the help; all if None.
            hidden: names that are not in the help.
        """
        group = self.section(title)
        helps, parameters = helps_of(target), parameters_of(target)
        for name, hint in hints_of(target).items():
            dest = f"{prefix}{name}"
            if name in skip or (only is not None and name not in only) or dest in self.taken:
                continue
            self.taken.add(dest)
            names = [dest]
            if prefix and name in short and name not in self.taken:
                names = [name, dest]
                self.taken.add(name)
            is_hidden = name in hidden or (shown is not None and dest not in shown)
            default = parameters[name].default
            help_text = SUPPRESS if is_hidden else self._help_of(dest, helps.get(name, ""), default)
            if name in VARYING and not _admits_list(hint):
                hint = hint | Sequence[float]
            options = [f"--{spelled}" for word in names for spelled in _spellings(word)]
            if isinstance(default, bool):
                group.add_argument(*options, dest=dest, action=argparse.BooleanOptionalAction, help=_escaped(help_text))
                continue
            group.add_argument(
                *options,
                dest=dest,
                action=_Collected,
                hint=hint,
                metavar=_metavar(name, hint),
                help=_escaped(help_text),
            )

    def _help_of(self, dest: str, text: str, default: Any) -> str:
        """Return the description of an option, what its remark adds, and its default in brackets."""
        text = self.texts.get(dest, text)
        words = [text, self.remarks.get(dest, "")]
        if self.defaults is None:
            return text
        if dest in self.defaults:
            default = self.defaults[dest]
        elif re.search(r"default", text, re.IGNORECASE):  # which the text states
            default = None
        if isinstance(default, (str, int, float)) and not isinstance(default, bool) and default != "":
            words.append(f"[{default}]")
        return " ".join(filter(None, words))

    def described(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        """Yield the sections of the help with their options that it shows."""
        for group in self._action_groups:
            actions = [action for action in group._group_actions if action.option_strings and action.help != SUPPRESS]
            if actions:
                yield str(group.title), actions

    def section(self, title: str) -> argparse._ArgumentGroup:
        """Return the section of the help with a title."""
        if title not in self._sections:
            self._sections[title] = self.add_argument_group(title)
        return self._sections[title]

    def add_varying(self, names: Sequence[str]) -> None:
        """Add an option ``--vary.NAME`` for each argument of which the tasks can have several values."""
        for name in names:
            dest = f"vary.{name}"
            self.taken.add(dest)
            text = f"values of {name}, a task for each, as of vary."
            hint = Sequence[float | int | str]
            self.section("What").add_argument(f"--{dest}", action=_Collected, hint=hint, metavar="A,B", help=text)

    def add_positional(self, name: str, text: str, *, several: bool = False) -> None:
        """Add the positional words, which are the value of an argument that may be an option too."""
        self.positional = name
        self.add_argument("positional", nargs="*" if several else "?", metavar=name.upper(), help=_escaped(text))

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the values of the options and positional words that are given, by name.

        Raises:
            LitVizError: an option is unknown, or has no value or another one than its argument admits.
        """
        try:
            given, unknown = self.parse_known_intermixed_args(list(words))
        except argparse.ArgumentError as error:
            self.error(str(error))
        for word in unknown:
            raise self.unknown(word)
        values = dict(vars(given))
        positional = values.pop("positional", None)
        if positional:
            listed = positional if isinstance(positional, list) else [positional]
            for word in listed:
                wrong_name = non_utf8_name_error(word)
                if wrong_name:
                    raise LitVizError(wrong_name)
            if self.positional in values:
                raise LitVizError(f"{self.positional} must be given once, got {', '.join(listed)} and an option")
            values[self.positional] = positional
        return values

    def unknown(self, word: str) -> LitVizError:
        """Return the error about a word that is no option."""
        if not word.startswith("--"):
            if word.startswith("-"):
                return LitVizError(f"unrecognized option {word}: options begin with two dashes, such as --out")
            return LitVizError(f"{self.prog} takes no further word, got {word!r}: see {self.prog} --help")
        name = word[2:].split("=")[0].replace("-", "_")
        known = {dest: None for action in self._actions for dest in _names_of(action)}
        other = _OTHER_NAMES.get(name.rpartition(".")[2])
        if other in known:
            return LitVizError(f"--{name.replace('_', '-')} is not available: use --{other}")
        hint = did_you_mean(name, known)
        hint = re.sub(r"'([\w.]+)'", lambda match: f"--{match[1].replace('_', '-')}", hint)
        return LitVizError(f"unrecognized option {word.split('=')[0]}{hint or f': see {self.prog} --help'}")


def _names_of(action: argparse.Action) -> list[str]:
    return [option[2:].replace("-", "_") for option in action.option_strings if not option.startswith("--no-")]


def _spellings(name: str) -> list[str]:
    """Return an option with dashes, and with underscores as in Python."""
    if "_" not in name:
        return [name]
    return [name.replace("_", "-"), name]


class _Formatter(argparse.HelpFormatter):
    """Help with one spelling of each option, and its value once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return option_text(action)


def option_text(action: argparse.Action) -> str:
    """Return the names of an option and its value, as the help shows them: ``--lr, --step-rule.lr LR``."""
    names = [name for name in action.option_strings if "_" not in name]
    text = ", ".join(names)
    return f"{text} {action.metavar}" if action.metavar else text


class _Collected(argparse.Action):
    """Store the value of an option; values of an option that is given several times are a list, if it admits one."""

    def __init__(self, option_strings: Sequence[str], dest: str, hint: Any, **options: Any) -> None:
        super().__init__(option_strings, dest, **options)
        self.hint = hint

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        name = f"{option_string}"
        value = read_text(values, self.hint, name)
        if hasattr(namespace, self.dest):
            before = getattr(namespace, self.dest)
            several = [*_as_list(before), *_as_list(value)]
            if not _admits_list(self.hint):
                raise LitVizError(f"{name} must be given once, got {' and '.join(map(str, several))}")
            value = several
        setattr(namespace, self.dest, value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _admits_list(hint: Any) -> bool:
    return any(get_origin(kind) in (list, tuple, Sequence) for kind in types_of(hint))


# -- values


def read_text(text: str, hint: Any, name: str) -> Any:
    """Return the value of an option's text, by the annotated type of its argument.

    Raises:
        LitVizError: the argument does not admit the value.
    """
    if text[:1] in ("[", "{"):
        value = _with_numbers(parse_yaml(text, name))
    else:
        value = _typed(text, types_of(hint))
    if classes_in(hint):  # checked when the part is made
        return value
    if not matches(value, hint):
        choices = [choice for kind in types_of(hint) for choice in _literals(kind)]
        near = did_you_mean(text, choices) if choices else ""
        raise LitVizError(f"{name} must be {described(hint)}, got {text!r}{near}")
    return value


def _typed(text: str, kinds: Sequence[Any]) -> Any:
    takes_text = str in kinds
    if text == "null" and type(None) in kinds:
        return None
    if text in ("true", "false") and bool in kinds:
        return text == "true"
    number = _number(text, kinds)
    if number is not None:
        return number
    if takes_text or Path in kinds or any(get_origin(kind) is Literal for kind in kinds):
        return text
    lists = [kind for kind in kinds if get_origin(kind) in (list, tuple, Sequence)]
    if lists:
        elements = [element for kind in lists for element in get_args(kind) if element is not Ellipsis]
        flat = [kind for element in elements for kind in types_of(element)]
        return [_typed(word.strip(), flat) for word in text.split(",")]
    return text if Any not in kinds else _with_numbers(parse_yaml(text, text))


def _number(text: str, kinds: Sequence[Any]) -> int | float | None:
    """Return a whole number or a number, if the argument admits it."""
    is_any = Any in kinds
    if (int in kinds or float in kinds or is_any) and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if float in kinds or is_any:
        try:
            return float(text)
        except ValueError:
            return None
    return None


def _with_numbers(value: Any) -> Any:
    """Return a value of YAML with numbers such as 1e-3, which YAML 1.1 reads as text."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", value):
        return float(value)
    return value


# -- descriptions


def _literals(hint: Any) -> list[str]:
    """Return the choices of an annotation."""
    choices = [str(choice) for kind in types_of(hint) if get_origin(kind) is Literal for choice in get_args(kind)]
    return list(dict.fromkeys(choices))


def _metavar(name: str, hint: Any) -> str:
    """Return the choices of an option, or its name where it has none or many."""
    choices = _literals(hint)
    if 0 < len(choices) <= _MOST_CHOICES:
        return "|".join(choices)
    return name.upper()


def parameters_of(target: Any) -> Mapping[str, Any]:
    """Return the parameters of a class or function by name."""
    if isinstance(target, type):
        return constructor_parameters(target)
    from inspect import signature

    return signature(target).parameters


@cache
def helps_of(target: Any) -> dict[str, str]:
    """Return the descriptions of arguments in docstrings, those of base classes included, without markup."""
    texts = [target.__doc__]
    if isinstance(target, type):
        texts = [text for kind in target.__mro__ for text in (kind.__doc__, kind.__init__.__doc__)]  # type: ignore[misc]
    found: dict[str, str] = {}
    for documented in texts:
        for parameter in parse_docstring(documented or "").params:
            text = parameter.description or ""
            for pattern, replacement in _MARKUP:
                text = re.sub(pattern, replacement, text)
            for name in parameter.arg_name.split(","):
                found.setdefault(name.strip(), text.strip())
    return found


def _escaped(text: str) -> str:
    return text if text == SUPPRESS else text.replace("%", "%%")


# -- methods


def first_words(command: MethodCommand, words: Sequence[str]) -> Form:
    """Return the form of ``--config`` and of the chosen part, which decide which options there are."""
    first = Parser(command.name)
    first.add("", getattr(api, command.name), only=("config", command.part))
    first.add_argument("--help", "-h", "--help-all", action="store_true")
    try:
        given, _ = first.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        first.error(str(error))
    form = read_config(command, getattr(given, "config", None))
    if hasattr(given, command.part):
        form.set(command.part, getattr(given, command.part))
    return form


def method_parser(command: MethodCommand, form: Form, *, every: bool = True) -> Parser:
    """Return the parser of a method: its tasks, the module and its parts, the run, the network and the Trainer.

    Args:
        command: the method.
        form: a form with the parts whose arguments are options.
        every: whether the help shows all options.
    """
    function = getattr(api, command.name)
    shown = None if every else SHOWN
    summary = parse_docstring(function.__doc__ or "").short_description or ""
    parser = Parser(command.name, f"[{command.positional.upper()} ...] [options]", summary, command.example)
    parser.remarks = _names_of_parts(form.module_class) | {"config": f"Names: {', '.join(config_names(command.name))}."}
    parser.defaults = _defaults_of(form)
    parser.texts["out"] = f"run folder. Default: runs/{command.name}/<time>_<first {command.positional.rstrip('s')}>."
    parser.add_positional(command.positional, helps_of(function)[command.positional], several=True)
    tasks = [name for name in hints_of(function) if name in _OF_TASKS]
    parser.add("What", function, only=tasks, skip=_NO_OPTIONS, shown=shown)
    parser.add_varying(command.varying)
    parser.add("How", function, skip=("out", *_NO_OPTIONS), shown=shown)
    parser.add("How", form.module_class, skip=("network", "images", "picture", "attack", "method"), shown=shown)
    parts = list(form.parts())
    unique = _unique_names(parts, parser.taken)
    usual = {owner.kind for owner in read_config(command, None).parts()} if shown else ()
    for owner in parts:  # of those that are chosen, all arguments are shown
        of_part = shown if owner.kind in usual else None
        parser.add(owner.title, owner.kind, prefix=f"{owner.label}.", short=unique, shown=of_part)
    applicable = presentation_of(form.module_class).run_options
    _add_run(parser, shown, hidden=OPTIONS_OF_METHODS - set(applicable))
    _add_network(parser, shown)
    _add_trainer(parser, shown)
    group = parser.section("Instead of a run")
    group.add_argument("--count", action="store_true", help="print the number of evaluations and the estimated time")
    group.add_argument("--print-config", "--print_config", action="store_true", help="print the whole configuration")
    return parser


def _defaults_of(form: Form) -> dict[str, Any]:
    """Return the values of a form that are numbers or texts, by the name of their option."""
    defaults: dict[str, Any] = {**form.run, **form.module["init_args"]}
    for owner in form.parts():
        for name, value in form.arguments_of(owner).items():
            defaults[f"{owner.label}.{name}"] = value
    return defaults


def _names_of_parts(module: type[Any]) -> dict[str, str]:
    """Return, for each argument of a module that is a part, a sentence with the names of the classes."""
    sentences: dict[str, str] = {}
    for name, hint in hints_of(module).items():
        found: dict[type[Any], str] = {}
        for base in classes_in(hint):
            if name not in LISTS_OF_PARTS and issubclass(base, Part):
                for word, kind in named_classes(base).items():
                    found.setdefault(kind, word)
        if found:
            sentences[name] = f"Names: {', '.join(found.values())}."
    return sentences


#: Arguments of the short functions that select the tasks.
_OF_TASKS = (
    "images", "target", "label", "against", "layer", "channel", "neuron", "axis", "init", "goal", "vary", "seed",
)  # fmt: skip


def _unique_names(parts: Sequence[Owner], taken: Collection[str]) -> set[str]:
    """Return the arguments that one part alone has, which are options without the name of the part."""
    names = [name for owner in parts for name in owner.names]
    return {name for name in names if names.count(name) == 1 and name not in taken}


def _add_run(parser: Parser, shown: Collection[str] | None, hidden: Collection[str] = ()) -> None:
    parser.add("The run", run, skip=_NOT_OF_RUN, shown=shown, hidden=hidden)
    short = [name for name in hints_of(LoggerSettings) if name not in parser.taken]
    parser.add("The run", LoggerSettings, prefix="logging.", short=short, shown=shown)


def _add_network(
    parser: Parser, shown: Collection[str] | None, title: str = "The network", prefix: str = "network"
) -> None:
    parser.add(title, load_network, only=("network",), shown=shown)
    skip = ("network", "processor", "device")
    parser.add(title, load_network, prefix=f"{prefix}.", skip=skip, shown=shown)


def _add_trainer(parser: Parser, shown: Collection[str] | None) -> None:
    short = [name for name in _SHORT_TRAINER if name not in parser.taken]
    title = "Lightning's Trainer"
    parser.texts["trainer.devices"] = (
        "devices that share the images: their number, a list of indices, -1 or auto. Default: "
        f"{TRAINER_DEFAULTS['devices']}."
    )
    parser.add(title, pl.Trainer, prefix="trainer.", short=short, skip=FIXED_TRAINER_ARGUMENTS, shown=shown)


def parse_method(command: MethodCommand, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a method by name, those of network and Trainer with their prefix."""
    parser = method_parser(command, first_words(command, words))
    return parser.values(words)


# -- other commands


def function_parser(name: str) -> Parser:
    """Return the parser of a command that is a function of its own."""
    return _PARSERS[name]()


def _check_parser() -> Parser:
    parser = Parser("check", "RUN [options]", "Compute all evidence for the images of a run.", "runs/fooled --trust")
    parser.add_positional("folder", "run folder")
    parser.add("Options", api.check, skip=("folder", "network", "progress"))
    return parser


#: Arguments of :func:`lit_viz.run` that only apply to a new run; given to ``resume``, they are an error that says so.
_OF_A_NEW_RUN = ("out", "overwrite", "resume")


def _resume_parser() -> Parser:
    from lit_viz.engine.method import Method

    parser = Parser(
        "resume",
        "RUN [options]",
        "Continue a run from its last checkpoint, or print the results of a finished run. Arguments that determine the "
        "images are fixed.",
        "runs/fooled --slots 4 --devices 2 --trainer.accelerator cpu --wandb offline",
    )
    parser.add_positional("folder", "run folder")
    parser.defaults = None
    parser.add("How", Method, only=("slots", "compile", "devices_mode"))
    _add_run(parser, None, hidden=_OF_A_NEW_RUN)
    _add_trainer(parser, SHOWN)
    return parser


def _log_parser() -> Parser:
    summary = "Log a run folder: metrics and images at their iterations, results, evidence and summary."
    parser = Parser("log", "RUN --to NAMES [options]", summary, "runs/fooled --to wandb,tensorboard")
    parser.add_positional("folder", "run folder")
    parser.add("Options", api.log, skip=("folder", "progress"))
    return parser


def _epochs_parser() -> Parser:
    summary = "Draw the results of a probe by epoch: epochs.png and epochs.gif in the folder out= of the probe."
    parser = Parser("epochs", "FOLDER", summary, "runs/probes/classes")
    parser.add_positional("folder", "folder of the probe")
    return parser


def _classes_parser() -> Parser:
    parser = Parser("classes", "[PART] [options]", "List the classes whose name contains PART.", "terrier")
    parser.add_positional("part", "part of the names", several=True)
    _add_network(parser, None)
    return parser


def _layers_parser() -> Parser:
    summary = "List the layers of a network and their outputs."
    parser = Parser("layers", "[NETWORK] [options]", summary, "torchvision/resnet18 --network.weights none")
    parser.add_positional("network", "the network")
    parser.taken.add("network")
    _add_network(parser, None)
    return parser


def _microscope_parser() -> Parser:
    from lit_viz.units import microscope

    parser = Parser(
        "microscope",
        "NETWORK --layers PATTERNS --images FOLDER --out FOLDER [options]",
        "Make pages of the units of a network: synthetic images, the photographs that activate each unit most, the "
        "distribution of its activation, and the classes that it raises and lowers. The same command continues an "
        "interrupted one.",
        "efficientnet_lite0 --layers blocks.1.0,blocks.4.1 --images photos --out runs/microscope",
    )
    parser.add_positional("network", "the network")
    parser.taken.add("network")
    parser.add("Options", microscope, skip=("network", "progress"))
    parser.add("Options", api.visualize, only=("iterations", "seed"))
    _add_network(parser, None)
    parser.add("The other network", load_network, prefix="compare.", skip=("network", "processor", "device"))
    parser.section("Options").add_argument(
        "--count", action="store_true", help="print evaluations, time and disk space, and end"
    )
    return parser


def _demo_parser() -> Parser:
    from lit_viz.engine.method import Method

    summary = "Run all methods on packaged images, offline."
    parser = Parser("demo", "[options]", summary, "--out runs/first --iterations 20")
    parser.defaults = None
    parser.texts["out"] = "folder of the runs. Default: runs/demo/<time>."
    parser.add("How", Method, only=("iterations", "slots", "log_at"))
    parser.add("How", api.visualize, only=("seed",))
    _add_run(parser, None)
    _add_network(parser, None)
    _add_trainer(parser, SHOWN)
    return parser


def _completion_parser() -> Parser:
    summary = "Print the completion of commands and options for bash, zsh, fish or another shell of shtab."
    parser = Parser("completion", "SHELL", summary, "bash > ~/.local/share/bash-completion/completions/lit-viz")
    parser.add_positional("shell", "name of the shell")
    return parser


_PARSERS = {
    "check": _check_parser,
    "resume": _resume_parser,
    "log": _log_parser,
    "epochs": _epochs_parser,
    "classes": _classes_parser,
    "layers": _layers_parser,
    "microscope": _microscope_parser,
    "demo": _demo_parser,
    "completion": _completion_parser,
}


def help_text(name: str, words: Sequence[str] = (), *, every: bool = False) -> str:
    """Return the help of a command.

    Args:
        name: name of the command.
        words: its words, of which the configuration and the part of a method decide on the options.
        every: whether all options of a method are listed.
    """
    if name not in COMMANDS:
        return function_parser(name).format_help()
    text = command_parser(name, words, every=every).format_help()
    return text if every else f"{text}\nAll options: lit-viz {name} --help-all\n"


def command_parser(name: str, words: Sequence[str] = (), *, every: bool = True) -> Parser:
    """Return the parser of a command; arguments as of :func:`help_text`."""
    if name not in COMMANDS:
        return function_parser(name)
    return method_parser(COMMANDS[name], first_words(COMMANDS[name], words), every=every)


def completion_script(shell: str, summaries: Mapping[str, str]) -> str:
    """Return the script by which a shell completes commands and options.

    Raises:
        LitVizError: shtab is not installed, or does not support the shell.
    """
    try:
        import shtab
    except ImportError as error:
        raise LitVizError("completion requires shtab: pip install 'lit-viz[completion]'") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        choices = ", ".join(shtab.SUPPORTED_SHELLS)
        raise LitVizError(f"shell must be one of {choices}, got {shell}", argument="shell", value=shell)
    root = argparse.ArgumentParser("lit-viz")
    commands = root.add_subparsers()
    for name, summary in summaries.items():
        commands.add_parser(name, help=summary, parents=[command_parser(name)], add_help=False)
    script: str = shtab.complete(root, shell)
    return script
