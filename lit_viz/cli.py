"""The command line: ``lit-viz COMMAND ...``, and the same commands for the files in ``scripts/``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lit_viz.errors import LitVizError, did_you_mean

if TYPE_CHECKING:
    from lit_viz.outcomes import Run

_HELP = """\
usage: lit-viz COMMAND ...

See what an image classifier has learned by training the input image against the frozen network.

  lit-viz demo                            all methods on packaged pictures, offline
  lit-viz visualize tarantula goldfish    class images
  lit-viz resume RUN                      continue a run, or print the results of a finished one
  lit-viz classes tarant                  find a class by a part of its name
  lit-viz layers CLASSIFIER               the layers of a network

lit-viz COMMAND --help says more. Configurations with their papers and costs are in configs/.
"""

#: Short options, and the dotted ones that they stand for.
_SHORT = {
    "--classifier": "--classifier.name",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
_FLAGS = ("--overwrite", "--resume", "--print_config", "--help", "-h", "--count")
_REFUSED = {"--trainer.max_steps": "--iterations", "--trainer.max_epochs": "--iterations"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with status 0, with 1 after one sentence, or with 128 + the signal that stopped it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(words)
    except LitVizError as error:
        print(f"lit-viz: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("lit-viz: stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def script(command: str) -> None:
    """Run a method's command with the words of this process: what the files in ``scripts/`` do."""
    main([command, *sys.argv[1:]])


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_HELP, end="")
        return
    command, rest = words[0], words[1:]
    if command == "--version":
        from lit_viz import __version__

        print(f"lit_viz {__version__}")
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        **{name: partial(_method, name) for name in ("visualize",)},
        "demo": _demo,
        "resume": _resume,
        "classes": _classes,
        "layers": _layers,
    }
    if command not in commands:
        hint = did_you_mean(command, commands) or ": see lit-viz --help."
        raise LitVizError(f"there is no command {command!r}{hint}")
    commands[command](rest)


# -- methods


def rewrite(words: Sequence[str], positional: str) -> list[str]:
    """Turn bare words and short options into the dotted options that the parser knows.

    Bare words become the list ``--<positional>``, dashes in option names underscores.

    Raises:
        LitVizError: for an option that lit_viz has another name for.
    """
    options: list[str] = []
    bare: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            bare.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name if name.startswith("--trainer.") else name.replace("-", "_").replace("__", "--", 1)
        if name in _REFUSED:
            raise LitVizError(f"{name} would cut the run short: use {_REFUSED[name]}.")
        name = _SHORT.get(name, name)
        options.append(name + equals + value)
        if not equals and name not in _FLAGS and rest:
            options.append(rest.pop(0))
    if bare:
        import json

        options += [f"--{positional}", json.dumps(bare)]
    return options


def _method(name: str, words: list[str]) -> None:
    from lit_viz.commands import COMMANDS
    from lit_viz.config import MethodCLI, find_config
    from lit_viz.run import count, default_folder, execute

    command = COMMANDS[name]
    words = rewrite(words, command.positional)
    if "--help" in words or "-h" in words:
        words = ["--help"]
    else:
        words = _config_first(words, name, command.default_config, find_config)
    cli = MethodCLI(command, words)
    if cli.config.count:
        print(count(command, cli))
        return
    if cli.config.out is None:
        cli.config.out = str(default_folder(command, cli.config))
    run = execute(command, cli, say=_say)
    _report(run)


def _config_first(words: list[str], method: str, default: str, find: Callable[..., object]) -> list[str]:
    """Name the default configuration where none is named, and resolve the names of packaged ones."""
    named = False
    resolved: list[str] = []
    for i, word in enumerate(words):
        if i and words[i - 1] == "--config":
            resolved.append(str(find(method, word)))
            named = True
        elif word.startswith("--config="):
            resolved.append(f"--config={find(method, word.partition('=')[2])}")
            named = True
        else:
            resolved.append(word)
    return resolved if named else ["--config", str(find(method, default)), *resolved]


# -- the other commands


def _resume(words: list[str]) -> None:
    if len(words) != 1 or words[0].startswith("-"):
        _usage(words, "lit-viz resume RUN", "Continue a run from its last checkpoint, or print what it gave.")
        return
    from lit_viz.api import stored
    from lit_viz.run import execute

    command, cli = stored(words[0])
    _report(execute(command, cli, say=_say))


def _classes(words: list[str]) -> None:
    if "--help" in words or "-h" in words:
        _usage(words, "lit-viz classes [PART] [--classifier NAME]", "List the classes whose name holds PART.")
        return
    name, words = _take(words, "--classifier", "efficientnet_lite0")
    from lit_viz.classifiers import load_classifier

    part = " ".join(words).casefold().replace("_", " ")
    labels = load_classifier(name).labels
    found = [(index, label) for index, label in enumerate(labels) if part in label.casefold() or part == str(index)]
    if not found:
        raise LitVizError(f"no class of {name} holds {part!r}{did_you_mean(part, labels) or '.'}")
    for index, label in found:
        print(f"{index:>5}  {label}")


def _layers(words: list[str]) -> None:
    if "--help" in words or "-h" in words or len(words) > 1:
        _usage(words, "lit-viz layers [CLASSIFIER]", "List the names and kinds of a network's layers.")
        return
    from lit_viz.classifiers import layer_names, load_classifier

    classifier = load_classifier(words[0] if words else "efficientnet_lite0")
    modules = dict(classifier.original.named_modules())
    for name in layer_names(classifier):
        print(f"{name:<40}{type(modules[name]).__name__}")


def _demo(words: list[str]) -> None:
    if "--help" in words or "-h" in words:
        meaning = "Run all methods on packaged pictures, offline; the options are those of the methods."
        _usage(words, "lit-viz demo [--out RUN] [--iterations N] ...", meaning)
        return
    from lit_viz.commands import COMMANDS
    from lit_viz.run import utc_now

    out, words = _take(words, "--out", f"runs/demo/{utc_now()}")
    for command in COMMANDS.values():
        _say(f"lit-viz {command.name} {' '.join(command.demo)}")
        _method(command.name, [*command.demo, "--out", f"{out}/{command.name}", *words])


def _take(words: list[str], option: str, default: str) -> tuple[str, list[str]]:
    """Return the value of an option and the other words."""
    if option not in words:
        return default, words
    place = words.index(option)
    if place + 1 >= len(words):
        raise LitVizError(f"{option} wants a value.")
    return words[place + 1], words[:place] + words[place + 2 :]


def _usage(words: list[str], usage: str, meaning: str) -> None:
    if not {"--help", "-h"} & set(words):
        raise LitVizError(f"usage: {usage}")
    print(f"usage: {usage}\n\n{meaning}")


# -- what is said


def _say(sentence: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


def _report(run: Run) -> None:
    """Print the results as a table (of judges: probability and rank), and where they lie."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    judges = sorted({name for record in run.results for name in record.get("judges") or {}})
    for column in ("", "class", "status", "probability", "rank", *(f"by {name}" for name in judges), "seconds"):
        table.add_column(column, justify="left" if column in ("class", "status") else "right", overflow="fold")
    for record in run.results:
        said = [record["judges"].get(name) for name in judges] if record.get("judges") else [None] * len(judges)
        verdicts = ["-" if v is None else f"{v['probability']:.2f} ({v['rank']})" for v in said]
        number = record.get("probability")
        table.add_row(
            str(record["index"]),
            record["target_name"] or record["name"],
            record["status"],
            "-" if number is None else f"{number:.3f}",
            str(record.get("rank", "-")),
            *verdicts,
            "-" if record["seconds"] is None else f"{record['seconds']:.0f}",
        )
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(table)
    for record in run.results:
        if record["error"]:
            console.print(f"{record['name']}: {record['error']}", markup=False, highlight=False)
    if run.folder is not None:
        console.print(f"\nresults  {run.folder}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"figure   {run.folder / 'figure.png'}", markup=False, highlight=False, soft_wrap=True)
        console.print("next     open figure.png and evolution.gif, or follow the run in W&B", highlight=False)
    if any(record["status"] == "failed" for record in run.results):
        sys.exit(1)
