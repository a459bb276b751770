"""The command line: ``lit-viz COMMAND ...``, and the same commands for the files in ``scripts/``."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from lit_viz.cli.console import report
from lit_viz.errors import LitVizError, Terminated, did_you_mean, interrupt_exit_status
from lit_viz.launch.argv import rewrite
from lit_viz.utils.formatting import notify
from lit_viz.utils.ranks import is_rank_zero

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

#: By command, what its --help prints. That of a method is its parser's.
_USAGES = {
    "demo": """\
usage: lit-viz demo [--out RUN] [--iterations N] ...

Run all methods on packaged pictures, offline; the options are those of the methods.

Example: lit-viz demo --out runs/first --iterations 20
""",
    "resume": """\
usage: lit-viz resume RUN [--slots N] [--devices N] [--wandb MODE] ...

Continue a run from its last checkpoint, or print what it gave. What makes its images stays as it was
begun; how they are made may be changed, until it stops again:
--slots N            images trained at once
--devices N          and every other --trainer option, such as --trainer.accelerator cpu
--devices-mode MODE  several devices share images, or views of one
--wandb MODE         auto, online, offline or disabled; --project NAME
--checkpoint-every N steps between checkpoints
--figure FORMAT      png, pdf or svg; --check, --explain as the run's command has them

Example: lit-viz resume runs/fooled --slots 4 --devices 2 --trainer.accelerator cpu --wandb offline
""",
    "check": """\
usage: lit-viz check RUN [--faithfulness] [--trust]

Look again, and deeper, whether a run's pictures are true.
--faithfulness also measures what saliency maps are good for: deletion and insertion, sensitivity, and
what remains of a map when the network's layers are drawn anew. A map of n evaluations costs 198
(forward only) and 14 n more.
--trust tries random points, Square and a large radius on what an attack with a budget could not fool.

Example: lit-viz check runs/fooled --trust
""",
    "classes": """\
usage: lit-viz classes [PART] [--classifier NAME] [--classifier.labels FILE] ...

List the classes whose name holds PART.

Example: lit-viz classes terrier
""",
    "layers": """\
usage: lit-viz layers [CLASSIFIER] [--classifier.size N] ...

List a network's layers, and what each gives.

Example: lit-viz layers torchvision/resnet18 --classifier.weights none
""",
}

#: Named here too, so that `lit-viz --help` need not wait for torch.
_METHODS = ("visualize", "saliency", "attack")
_HELP_ASKED = {"--help", "-h"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with status 0, with 1 after one sentence, or with 128 + the signal that stopped it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no accents gets question marks
    with told("lit-viz"):
        _dispatch(words)


@contextmanager
def told(program: str) -> Iterator[None]:
    """Let what ends the body be one sentence, after the program's name, and the exit status: a program's main part."""
    try:
        with _heeding_sigterm():
            yield
    except LitVizError as error:
        _refuse(program, error)
    except KeyboardInterrupt as stop:
        if is_rank_zero():
            print(f"{program}: stopped.", file=sys.stderr)
        sys.exit(interrupt_exit_status(stop))
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind what the body does, as Ctrl-C does: files are left whole, W&B is told. While images are
    trained a step is ended first (:class:`~lit_viz.callbacks.checkpoints.Checkpoints`)."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _refuse(program: str, error: LitVizError) -> None:
    """Say the one sentence and exit; of several processes that were told to stop, only the first one says so."""
    stopped = error.exit_status > 128
    if stopped and not is_rank_zero():
        sys.exit(0)
    print(f"{program}: {error}", file=sys.stderr)
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
    if command in _USAGES and _HELP_ASKED & set(rest):
        print(_USAGES[command], end="")
        return
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
        atexit.register(_unfreeze)


def _unfreeze() -> None:
    """Let go of Triton's objects at the end, as it lists those that stay; where it isn't, that saves a second."""
    if "triton" in sys.modules:
        gc.unfreeze()


# -- methods


def _method(name: str, words: list[str]) -> None:
    with _importing():
        from lit_viz.launch.commands import COMMANDS
        from lit_viz.launch.config import MethodCLI, config_first
        from lit_viz.launch.execute import cost, cost_in_words, default_folder, execute

    command = COMMANDS[name]
    words = rewrite(words, command.positional, command.option)
    cli = MethodCLI(command, ["--help"] if _HELP_ASKED & set(words) else config_first(command, words))
    command.check(cli.config)  # before anything is said
    asked_for = getattr(cli.config, command.positional)
    if asked_for and not {f"--{command.positional}", "--config"} & set(words):
        named = ", ".join(map(str, asked_for))
        notify(f"no {command.positional} named: those of --config {command.default_config} are taken, {named}")
    if cli.config.count:
        print(cost_in_words([cost(command, cli)]))
        return
    if cli.config.out is None:
        cli.config.out = str(default_folder(command, cli.config))
    report(command.presentation(cli.config), execute(command, cli, notify=notify))


# -- the other commands


def _resume(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise _misused("resume")
    with _importing():
        from lit_viz.api import stored
        from lit_viz.launch.execute import execute

    command, cli = stored(words[0], words[1:])
    report(command.presentation(cli.config), execute(command, cli, notify=notify))


def _check(words: list[str]) -> None:
    flags = ("--faithfulness", "--trust")
    folders = [word for word in words if word not in flags]
    for word in folders:
        if word.startswith("-"):
            near = did_you_mean(word, flags) or f": there are {', '.join(flags)}."
            raise LitVizError(f"check has no option {word}{near}")
    if len(folders) != 1:
        raise _misused("check")
    with _importing():
        from lit_viz.api import stored
        from lit_viz.launch.execute import check

    command, cli = stored(folders[0])
    faithfulness, trust = (flag in words for flag in flags)
    if not check(command, cli, faithfulness=faithfulness, trust=trust, notify=notify):
        sys.exit(1)
    for what, file in (("evidence", "evidence.json"), ("report  ", "report.html")):
        if Path(folders[0], file).exists():
            print(f"{what} {folders[0]}/{file}")


def _classes(words: list[str]) -> None:
    with _importing():
        from lit_viz.classifiers.loading import class_names
        from lit_viz.launch.options import network_options

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
    with _importing():
        from lit_viz.classifiers import layer_names, load_classifier
        from lit_viz.classifiers.layouts import layouts
        from lit_viz.launch.options import network_options

    named = words and not words[0].startswith("-")
    options, bare = network_options(rewrite(["--classifier", *words] if named else words, "bare"))
    classifier = load_classifier(options.pop("name"), **options)
    if bare:
        raise LitVizError(f"lit-viz layers lists one network's layers: {bare[0]} is one word too many.")
    modules = dict(classifier.original.named_modules())
    known = layouts(classifier)
    for name in layer_names(classifier.original):
        kind = type(modules[name]).__name__
        print(f"{name:<40} {kind:<24} {known.get(name, 'not called')}")


def _demo(words: list[str]) -> None:
    with _importing():
        from lit_viz.launch.commands import COMMANDS
        from lit_viz.launch.execute import utc_now

    out, words = _take(words, "--out", f"runs/demo/{utc_now()}")
    for command in COMMANDS.values():
        notify(f"lit-viz {command.name} {' '.join(command.demo)}")
        _method(command.name, [*command.demo, "--out", f"{out}/{command.name}", *words])


def _take(words: list[str], option: str, default: str) -> tuple[str, list[str]]:
    """Return the value of an option and the other words."""
    parted = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    if option not in parted:
        return default, words
    place = parted.index(option)
    if place + 1 >= len(parted):
        raise LitVizError(f"{option} wants a value.")
    return parted[place + 1], parted[:place] + parted[place + 2 :]


def _misused(command: str) -> LitVizError:
    return LitVizError(_USAGES[command].partition("\n")[0])
