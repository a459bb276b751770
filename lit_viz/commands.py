"""The parsers of the commands: options of methods, runs, networks and the Trainer, from signatures and docstrings.

What imports Lightning is imported within the functions, so that ``classes`` and ``layers`` start without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from docstring_parser import parse as parse_docstring

from lit_viz.errors import ArgumentError
from lit_viz.launch.early import Option, read_words
from lit_viz.launch.parser import Parser, helps_of, read_text
from lit_viz.launch.specs import METHODS, MethodSpec
from lit_viz.networks.sources import packaged_networks
from lit_viz.outputs.loading import load_network
from lit_viz.utils.formatting import ignore
from lit_viz.utils.imports import required
from lit_viz.utils.owners import Owner
from lit_viz.utils.parts import Part, classes_in, hints_of, named_classes

if TYPE_CHECKING:
    from lit_viz.launch.form import Form
    from lit_viz.networks import Network

#: Options of all runs that ``--help`` of a method shows, besides those of its specification; ``--help-all`` shows all.
SHOWN = frozenset({
    "fit", "config", "iterations", "views", "seed", "slots", "log_at", "out", "overwrite", "resume", "logger",
    "logging.project", "logging.wandb", "localize", "shard", "network", "network.weights", "network.labels",
    "network.size", "network.output", "trainer.devices", "trainer.accelerator", "count", "print_config",
})  # fmt: skip
#: Arguments of short functions that are no options.
_NO_OPTIONS = ("network", "progress", "normalization")
#: Arguments of :func:`load_network` that are no dotted options.
_NOT_OF_NETWORK = ("network", "processor", "device")
#: Arguments of :func:`lit_viz.run` that are no options.
_NOT_OF_RUN = ("module", "tasks", "trainer", "logging", "progress")


# -- methods


def first_form(spec: MethodSpec, words: Sequence[str]) -> Form:
    """Return the form of ``--config`` and of the chosen part, which decide which options there are."""
    from lit_viz.launch.methods import read_config

    deciding = {f"--{name}": Option(name) for name in ("config", "layer", spec.part)}
    given = read_words(spec.name, words, deciding).given
    form = read_config(spec, given["config"][-1] if "config" in given else spec.config_for(given))
    if spec.part in given:
        text = ",".join(given[spec.part])
        form.set(spec.part, read_text(text, hints_of(spec.short_function)[spec.part], f"--{spec.part}"))
    return form


def method_parser(spec: MethodSpec, words: Sequence[str] = (), *, every: bool = True) -> Parser:
    """Return the parser of a method: its tasks, the module and its parts, the run, the network and the Trainer.

    Args:
        spec: the method.
        words: its words, of which the configuration and the part decide on the options.
        every: whether the help shows all options.
    """
    from lit_viz.launch.methods import read_config

    function, form = spec.short_function, first_form(spec, words)
    shown = None if every else SHOWN | spec.shown
    parser = Parser(spec.name, f"[{spec.positional.upper()} ...] [options]", example=spec.example)
    parser.form = form
    parser.describe = partial(_describe, parser, spec)
    parser.add_positional(spec.positional, several=True)
    parser.add("What", function, only=spec.what, skip=_NO_OPTIONS, shown=shown)
    tasks, module, *_ = form.owners()
    parser.add("What", tasks, only=_OF_FILES, shown=shown)
    for name in spec.varying:
        text = f"values of {name}, a task for each, as of vary."
        parser.add_word("What", f"vary.{name}", text, Sequence[float | int | str])
    parser.add("How", function, skip=("out", *_NO_OPTIONS), shown=shown)
    parser.add("How", module, skip=("network", "images", "picture"), shown=shown)
    usual = () if every else [owner.kind for owner in read_config(spec, None).parts()]
    _add_parts(parser, form, shown, chosen=[owner.kind for owner in form.parts() if owner.kind not in usual])
    _add_run(parser, shown, shown)
    parser.add_word("Instead of a run", "count", "print the number of evaluations and the estimated time")
    parser.add_word("Instead of a run", "print_config", "print the whole configuration")
    return parser


def _describe(parser: Parser, spec: MethodSpec) -> None:
    """Complete what the help of a method alone needs: its texts, names of values and defaults."""
    from lit_viz.launch.form import config_names
    from lit_viz.launch.options import options_of_methods
    from lit_viz.presentations import presentation_of

    function, form = spec.short_function, parser.form
    parser.description = parse_docstring(function.__doc__ or "").short_description or ""
    parser.positional_text = helps_of(function)[spec.positional]
    parser.names |= _names_of_parts(form.module_class) | {"config": config_names(spec.name)}
    parser.defaults = _defaults_of(form)
    parser.texts["out"] = f"run folder. Default: runs/{spec.name}/<time>_<first {spec.positional.rstrip('s')}>."
    parser.hidden = options_of_methods() - set(presentation_of(form.module_class).run_options)


def _defaults_of(form: Form) -> dict[str, Any]:
    """Return the values of a form that are numbers or texts, by the name of their option."""
    defaults: dict[str, Any] = {**form.run, **form.module["init_args"]}
    for owner in form.parts():
        for name, value in form.arguments_of(owner).items():
            defaults[f"{owner.label}.{name}"] = value
    return defaults


def _names_of_parts(module: type[Any]) -> dict[str, list[str]]:
    """Return, for each argument of a module that is a part, the names of the classes."""
    from lit_viz.methods.form import LISTS_OF_PARTS

    names: dict[str, list[str]] = {}
    for name, hint in hints_of(module).items():
        found: dict[type[Any], str] = {}
        for base in classes_in(hint):
            if name not in LISTS_OF_PARTS and issubclass(base, Part):
                for word, kind in named_classes(base).items():
                    found.setdefault(kind, word)
        if found:
            names[name] = list(found.values())
    return names


#: Arguments of the tasks about the files of images, and how they are read.
_OF_FILES = ("axes", "fill", "clip", "tile", "overlap")


def _add_parts(parser: Parser, form: Form, shown: Collection[str] | None, chosen: Collection[type[Any]] = ()) -> None:
    """Add the arguments of the parts of a module, of which ``chosen`` ones show all.

    Arguments of one part alone are options without the name of the part, too.
    """
    parts = list(form.parts())
    names: list[str] = []
    for owner in parts:
        names += owner.names
    unique = [name for name in names if names.count(name) == 1 and name not in parser.taken]
    for owner in parts:
        of_part = None if owner.kind in chosen else shown
        parser.add(str(owner.kind.__name__), owner, prefix=f"{owner.label}.", short=unique, shown=of_part)
        parser.add(str(owner.kind.__name__), owner, prefix=f"{owner.long_label}.", shown=())


def _add_settings(parser: Parser, title: str, owner: Owner, shown: Collection[str] | None) -> None:
    """Add the arguments of the loggers or of the Trainer, by dotted names."""
    short = [name for name in owner.short if name not in parser.taken]
    parser.add(title, owner, prefix=f"{owner.label}.", short=short, skip=owner.hidden, shown=shown)


def _add_network(parser: Parser, shown: Collection[str] | None) -> None:
    parser.add("The network", load_network, only=("network",), shown=shown)
    parser.add("The network", load_network, prefix="network.", skip=_NOT_OF_NETWORK, shown=shown)


def _add_run(
    parser: Parser,
    shown: Collection[str] | None,
    of_trainer: Collection[str] | None = SHOWN,
    *,
    has_network: bool = True,
) -> None:
    """Add the arguments of a run, of its loggers, its network and its Trainer.

    Args:
        parser: the parser.
        shown: names in the help; all if None.
        of_trainer: the same of the Trainer.
        has_network: whether the network is an option.
    """
    from lit_viz.launch.execute import run
    from lit_viz.launch.form import LOGGING, RUN, TRAINER
    from lit_viz.launch.options import TRAINER_DEFAULTS

    parser.add("The run", replace(RUN, documented=run), skip=_NOT_OF_RUN, shown=shown)
    _add_settings(parser, "The run", LOGGING, shown)
    if has_network:
        _add_network(parser, shown)
    _add_settings(parser, "Lightning's Trainer", TRAINER, of_trainer)
    parser.texts["trainer.accelerator"] = "processors of the run: cpu, gpu, tpu, hpu, mps or auto."
    parser.texts["trainer.devices"] = (
        "devices that share the images: their number, a list of indices, -1 or auto. Default: "
        f"{TRAINER_DEFAULTS['devices']}."
    )


def parse_method(spec: MethodSpec, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a method by name, of network and Trainer with their prefix."""
    return method_parser(spec, words).values(words)


def form_of_words(
    spec: MethodSpec, words: Sequence[str], others: Mapping[str, Any] | None = None, network: Network | None = None
) -> tuple[Form, dict[str, Any]]:
    """Return the form of a command line, and its arguments by name; ``others`` take precedence."""
    from lit_viz.launch.methods import method_form

    parser = method_parser(spec, words)
    values = parser.values(words) | dict(others or {})
    given = {name: value for name, value in values.items() if name not in ("count", "print_config")}
    if network is not None:  # which decides on the configuration
        return method_form(spec, given, network), values
    owners = {name: option.owner for name, option in parser.entries.items() if option.owner and option.owner.path}
    return method_form(spec, given, base=parser.form, owners=owners), values


# -- other commands


def function_parser(name: str, words: Sequence[str] = ()) -> Parser:
    """Return the parser of a command that is a function of its own.

    Args:
        name: name of the command.
        words: words of ``resume``, with a run folder that has more options.
    """
    if name == "resume":
        return _resume_parser(_stored_form(words))
    return _PARSERS[name]()


def _check_parser() -> Parser:
    from lit_viz import api

    parser = Parser("check", "RUN [options]", "Compute all evidence for the images of a run.", "runs/fooled --trust")
    parser.add_positional("folder", "run folder")
    parser.add("Options", api.check, skip=("folder", "network", "progress"))
    return parser


def _resume_parser(form: Form | None = None) -> Parser:
    """Return the parser of ``resume``; with a form, its arguments are hidden options that can't be changed."""
    from lit_viz import api
    from lit_viz.engine.method import Method
    from lit_viz.launch.resume import NEW_RUN

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
    if form is not None:
        parser.add("How", api.visualize, only=("config",), shown=())
        parser.add("How", form.tasks_class, skip=("network",), shown=())
        parser.add("How", form.module_class, skip=("network", "images"), shown=())
        _add_parts(parser, form, shown=())
        parser.add("How", load_network, prefix="network.", skip=_NOT_OF_NETWORK, shown=())
    parser.hidden = NEW_RUN
    _add_run(parser, None, has_network=False)
    return parser


def _stored_form(words: Sequence[str]) -> Form | None:
    """Return the form of the run folder among the words of ``resume``; None without one."""
    from lit_viz.launch.resume import stored_form
    from lit_viz.runs.access import is_run
    from lit_viz.runs.folder import FolderStorage

    folders = _resume_parser().read(words).positional
    if not folders or not is_run(folders[0]):
        return None
    return stored_form(FolderStorage.open(folders[0]), ignore)


def _status_parser() -> Parser:
    from lit_viz.launch.status import run_states

    summary = "Print how far runs are: finished tasks, rate, time left, and runs without a recent save."
    parser = Parser("status", "RUN ... [options]", summary, "runs/maps --stale 600")
    parser.add_positional("folders", "run folders, or folders with the shards of a run", several=True)
    parser.add("Options", run_states, skip=("folders",))
    parser.add_word("Options", "json", "print JSON in place of a table")
    return parser


def _compare_parser() -> Parser:
    from lit_viz import api

    summary = "Compare the methods or attacks of runs: one table and figure with 95 % intervals."
    parser = Parser("compare", "RUN ... [options]", summary, "runs/pgd runs/ddn --eps 2/255,4/255")
    parser.add_positional("folders", "run folders", several=True)
    parser.texts["out"] = "folder for comparison.csv and the figure. Default: runs/compare/<time>."
    parser.add("Options", api.compare, skip=("folders",))
    return parser


def _merge_parser() -> Parser:
    from lit_viz import api

    summary = "Merge the shards of a run to one run, and compute its evidence, figure and report."
    parser = Parser("merge", "SHARD ... --out RUN [--partial]", summary, "runs/maps --out runs/all_maps")
    parser.add_positional("folders", "run folders of shards, or the folder that contains them", several=True)
    parser.add("Options", api.merge, skip=("folders", "network", "progress"))
    return parser


def _log_parser() -> Parser:
    from lit_viz import api
    from lit_viz.launch.form import LOGGING

    summary = "Log a run folder: metrics and images at their iterations, results, evidence and summary."
    parser = Parser("log", "RUN [options]", summary, "runs/fooled --to wandb,tensorboard")
    parser.add_positional("folder", "run folder")
    parser.add("Options", api.log, skip=("folder", "logging", "progress"))
    _add_settings(parser, "Options", LOGGING, None)
    return parser


def _epochs_parser() -> Parser:
    summary = "Draw the results of a probe by epoch: epochs.png and epochs.gif in the folder out= of the probe."
    parser = Parser("epochs", "FOLDER", summary, "runs/probes/classes")
    parser.add_positional("folder", "folder of the probe")
    return parser


def _read_parser() -> Parser:
    from lit_viz import api

    summary = "Print the text that a network says or reads of each image."
    parser = Parser("read", "IMAGES ... [options]", summary, "page.png --network my:build --network.output my:output")
    parser.add_positional("images", helps_of(api.read)["images"], several=True)
    parser.add("Options", api.read, skip=("network", "images", "normalization"))
    _add_network(parser, None)
    return parser


def _classes_parser() -> Parser:
    parser = Parser("classes", "[PART] [options]", "List the classes with PART in their name.", "terrier")
    parser.add_positional("part", "part of the names", several=True)
    _add_network(parser, None)
    return parser


def _layers_parser() -> Parser:
    summary = "List the layers of a network and their outputs."
    parser = Parser("layers", "[NETWORK] [options]", summary, "torchvision/resnet18 --network.weights none")
    parser.add_positional("network", "the network")
    _add_network(parser, None)
    return parser


def _microscope_parser() -> Parser:
    from lit_viz import api
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
    parser.add("Options", microscope, skip=("network", "progress"))
    parser.add("Options", api.visualize, only=("iterations", "seed"))
    _add_network(parser, None)
    parser.add("The other network", load_network, prefix="compare.", skip=_NOT_OF_NETWORK)
    parser.add_word("Options", "count", "print evaluations, time and disk space, and end")
    return parser


def _demo_parser() -> Parser:
    from lit_viz import api
    from lit_viz.engine.method import Method

    summary = "Run all methods on packaged images, offline."
    parser = Parser("demo", "[options]", summary, "--out runs/first --iterations 20")
    parser.defaults = None
    parser.texts["out"] = "folder of the runs. Default: runs/demo/<time>."
    parser.add("How", Method, only=("iterations", "slots", "log_at"))
    parser.add("How", api.visualize, only=("seed",))
    parser.hidden = ("shard", "store", "store_arrays")
    _add_run(parser, None)
    return parser


def _completion_parser() -> Parser:
    summary = "Print the completion of commands and options for bash, zsh, fish or another shell of shtab."
    parser = Parser("completion", "SHELL", summary, "bash > ~/.local/share/bash-completion/completions/lit-viz")
    parser.add_positional("shell", "name of the shell")
    return parser


_PARSERS = {
    "check": _check_parser,
    "resume": _resume_parser,
    "status": _status_parser,
    "compare": _compare_parser,
    "merge": _merge_parser,
    "log": _log_parser,
    "epochs": _epochs_parser,
    "read": _read_parser,
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
    text = command_parser(name, words, every=every).format_help()
    if every or name not in METHODS:
        return text
    return f"{text}\nAll options: lit-viz {name} --help-all\n"


def command_parser(name: str, words: Sequence[str] = (), *, every: bool = True) -> Parser:
    """Return the parser of a command; arguments as of :func:`help_text`."""
    return method_parser(METHODS[name], words, every=every) if name in METHODS else function_parser(name)


def completion_script(shell: str, summaries: Mapping[str, str]) -> str:
    """Return the script by which a shell completes commands, options, and values that have names.

    Raises:
        LitVizError: shtab is not installed, or does not support the shell.
    """
    with required("shtab 1.7 to 1.13", "completion", extra="completion"):
        import shtab
    if shell not in shtab.SUPPORTED_SHELLS:
        choices = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ArgumentError("shell", f"must be one of {choices}, got {shell}", value=shell)
    root = argparse.ArgumentParser("lit-viz")
    commands = root.add_subparsers()
    for name, summary in summaries.items():
        parser = command_parser(name)
        parser.names["network"] = packaged_networks()
        commands.add_parser(name, help=summary, parents=[parser.shell_parser()], add_help=False)
    script: str = shtab.complete(root, shell)
    return script
