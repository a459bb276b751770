"""The command line: ``lit-viz COMMAND ...``, and the same commands for the files in ``scripts/``."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launched import is_first

if TYPE_CHECKING:
    from rich.console import Console

    from lit_viz.commands import Command
    from lit_viz.outcomes import Run

_HELP = """\
usage: lit-viz COMMAND ...

See what an image classifier has learned by training the input image against the frozen network.

  lit-viz demo                            all methods on packaged pictures, offline
  lit-viz visualize tarantula goldfish    class images; --layer NAME --channel 3,14-20: channels
  lit-viz saliency PHOTO_OR_FOLDER ...    saliency maps, checked by Captum
  lit-viz attack PHOTO --target stingray  adversarial examples, verified in the file
  lit-viz check RUN                       evidence again, and deeper
  lit-viz resume RUN                      continue a run, or print the results of a finished one
  lit-viz classes tarant                  find a class by a part of its name
  lit-viz layers CLASSIFIER               the layers of a network

lit-viz COMMAND --help says more. Configurations with their papers and costs are in configs/.
"""

#: Named here too, so that `lit-viz --help` need not wait for torch.
_METHODS = ("visualize", "saliency", "attack")
#: Results that the terminal shows; all are in results.jsonl.
_ROWS = 40
#: Short options, and the dotted ones that they stand for.
_SHORT = {
    "--classifier": "--classifier.name",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
#: Options that may be given several times.
_REPEATED = ("--target",)
_FLAGS = (
    "--overwrite",
    "--resume",
    "--print_config",
    "--help",
    "-h",
    "--count",
    "--localize",
    "--explain",
    "--overlays",
)
_REFUSED = {"--trainer.max_steps": "--iterations", "--trainer.max_epochs": "--iterations"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with status 0, with 1 after one sentence, or with 128 + the signal that stopped it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(words)
    except LitVizError as error:
        _refuse(error)
    except KeyboardInterrupt:
        print("lit-viz: stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: LitVizError) -> None:
    """Say the one sentence and exit; of several processes that were told to stop, only the first one says so."""
    stopped = error.exit_status > 128
    if stopped and not is_first():
        sys.exit(0)
    print(f"lit-viz: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


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
        **{name: partial(_method, name) for name in _METHODS},
        "demo": _demo,
        "resume": _resume,
        "check": _check,
        "classes": _classes,
        "layers": _layers,
    }
    if command not in commands:
        hint = did_you_mean(command, commands) or ": see lit-viz --help."
        raise LitVizError(f"there is no command {command!r}{hint}")
    commands[command](rest)


@contextmanager
def _importing() -> Iterator[None]:
    """Look for no garbage while torch and Lightning are imported: looking among a million objects, all of which stay,
    costs a second."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


# -- methods


def rewrite(
    words: Sequence[str],
    positional: str,
    own: Callable[[str, str], tuple[str, str]] = lambda name, value: (name, value),
) -> list[str]:
    """Turn bare words and short options into the dotted options that the parser knows.

    Bare words become the list ``--<positional>``, dashes in option names underscores.

    Args:
        words: of the command line.
        positional: the option that bare words go to.
        own: turns the command's own short options, with their values, into the parser's.

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
        valued = bool(equals) or (name not in _FLAGS and bool(rest))
        if valued:
            options += own(name, value if equals else rest.pop(0))
        else:
            options.append(name)
    if bare:
        options += [f"--{positional}", json.dumps(bare)]
    return _gathered(options)


def _gathered(options: list[str]) -> list[str]:
    """Turn options that are given several times, and may be, into one with a list."""
    for name in _REPEATED:
        places = [i for i, word in enumerate(options) if word == name]
        if len(places) > 1:
            values = [options[i + 1] for i in places]
            rest = [word for i, word in enumerate(options) if i not in places and i - 1 not in places]
            options = [*rest, name, json.dumps(values)]
    return options


def _method(name: str, words: list[str]) -> None:
    with _importing():
        from lit_viz.commands import COMMANDS
        from lit_viz.config import MethodCLI, config_argument
        from lit_viz.run import count, default_folder, execute

    command = COMMANDS[name]
    words = rewrite(words, command.positional, command.option)
    if "--help" in words or "-h" in words:
        words = ["--help"]
    else:
        words = _config_first(words, name, command.config_for(words), config_argument)
    cli = MethodCLI(command, words)
    if cli.config.count:
        print(count(command, cli))
        return
    if cli.config.out is None:
        cli.config.out = str(default_folder(command, cli.config))
    _report(command, execute(command, cli, say=_say))


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
    with _importing():
        from lit_viz.api import stored
        from lit_viz.run import execute

    command, cli = stored(words[0])
    _report(command, execute(command, cli, say=_say))


def _check(words: list[str]) -> None:
    flags = ("--faithfulness", "--trust", "--peers")
    folders = [word for word in words if word not in flags]
    if len(folders) != 1 or folders[0].startswith("-"):
        meaning = (
            "Look again, and deeper, whether a run's pictures are true.\n"
            "--faithfulness also measures what saliency maps are good for: deletion and insertion, sensitivity, and\n"
            "what remains of a map when the network's layers are drawn anew. A map of n evaluations costs 198\n"
            "(forward only) and 14 n more.\n"
            "--trust tries random points, Square and a large radius on what an attack with a budget could not fool.\n"
            "--peers asks Foolbox and torchattacks, where they are installed, what the attack was asked."
        )
        _usage(words, "lit-viz check RUN [--faithfulness] [--trust] [--peers]", meaning)
        return
    with _importing():
        from lit_viz.api import stored
        from lit_viz.run import check

    command, cli = stored(folders[0])
    faithfulness, trust, peers = (flag in words for flag in flags)
    if not check(command, cli, faithfulness=faithfulness, trust=trust, peers=peers, say=_say):
        sys.exit(1)
    print(f"evidence {folders[0]}/evidence.json\nreport   {folders[0]}/report.html")


def _classes(words: list[str]) -> None:
    if "--help" in words or "-h" in words:
        _usage(
            words,
            "lit-viz classes [PART] [--classifier NAME] [--classifier.labels FILE] ...",
            "List the classes whose name holds PART.",
        )
        return
    with _importing():
        from lit_viz.classifiers.loading import class_names
        from lit_viz.options import network_options

        options, bare = network_options(rewrite(words, "bare"))
        labels = class_names(**options)  # which imports torchvision or timm
    name = options["name"]
    part = " ".join(bare).casefold().replace("_", " ")
    found = [(index, label) for index, label in enumerate(labels) if part in label.casefold() or part == str(index)]
    if not found:
        raise LitVizError(f"no class of {name} holds {part!r}{did_you_mean(part, labels) or '.'}")
    for index, label in found:
        print(f"{index:>5}  {label}")


def _layers(words: list[str]) -> None:
    if "--help" in words or "-h" in words:
        usage = "lit-viz layers [CLASSIFIER] [--classifier.size N] ..."
        _usage(words, usage, "List a network's layers, and what each gives.")
        return
    with _importing():
        from lit_viz.classifiers import layer_names, load_classifier
        from lit_viz.classifiers.layouts import layouts
        from lit_viz.options import network_options

    named = words and not words[0].startswith("-")
    options, bare = network_options(rewrite(["--classifier", *words] if named else words, "bare"))
    classifier = load_classifier(options.pop("name"), **options)
    if bare:
        raise LitVizError(f"lit-viz layers lists one network's layers: {bare[0]} is one word too many.")
    modules = dict(classifier.original.named_modules())
    known = layouts(classifier)
    for name in layer_names(classifier):
        kind = type(modules[name]).__name__
        print(f"{name:<40} {kind:<24} {known.get(name, 'not called')}")


def _demo(words: list[str]) -> None:
    if "--help" in words or "-h" in words:
        meaning = "Run all methods on packaged pictures, offline; the options are those of the methods."
        _usage(words, "lit-viz demo [--out RUN] [--iterations N] ...", meaning)
        return
    with _importing():
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
    if not is_first():
        return
    from rich.console import Console

    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


def _report(command: Command, run: Run) -> None:
    """Print the results as a table, the errors, and where everything lies; exit with 1 unless all were done.

    Of several processes only the first one does.
    """
    if not is_first():
        return
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=150)
    failed = [record for record in run.results if record["status"] == "failed"]
    if len(run.results) <= _ROWS:
        _print_table(console, command.table(run.results), run.results)
    else:
        classes = command.summary(run.results)
        _print_table(console, classes[:_ROWS])
        more = f"; {len(classes) - _ROWS} more classes" if len(classes) > _ROWS else ""
        console.print(f"every image is in results.jsonl{more}", highlight=False)
    for record in failed[:_ROWS]:
        console.print(f"{record['name']}: {record['error']}", markup=False, highlight=False, soft_wrap=True)
    if failed or len(run.results) > 1:
        console.print(f"{len(run.results) - len(failed)} of {len(run.results)} done", highlight=False)
    if run.folder is not None:
        console.print(f"\nresults  {run.folder}", markup=False, highlight=False, soft_wrap=True)
        for figure in sorted(run.folder.glob("figure.*")):
            console.print(f"figure   {figure}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"report   {run.folder}/report.html", markup=False, highlight=False, soft_wrap=True)
        console.print(f"next     {command.afterwards}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit(1)


def _print_table(
    console: Console, rows: Sequence[Mapping[str, str]], records: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Print the rows; those of single records with their index and seconds."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(next(iter(rows), {}))
    for column in columns if records is None else ("", *columns, "seconds"):
        words = column in ("photograph", "class", "target", "method", "status")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    if records is None:
        for row in rows:
            table.add_row(*row.values())
    for record, row in zip(records or (), rows, strict=False):
        seconds = "-" if record["seconds"] is None else f"{record['seconds']:.1f}"
        table.add_row(str(record["index"]), *row.values(), seconds)
    console.print(table)
