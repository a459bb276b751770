"""Command line: ``lit-viz COMMAND ...``. The files in ``scripts/`` run the same commands.

torch is imported within the commands, so that ``lit-viz --help`` is fast.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lit_viz.errors import LitVizError, Terminated, did_you_mean, interrupt_exit_status, printable
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.commands.usage import USAGES
from lit_viz.utils.formatting import command_line, notify, pluralize, status_summary
from lit_viz.utils.limits import MOST_PRINTED
from lit_viz.utils.process import is_rank_zero

if TYPE_CHECKING:
    from rich.console import Console

    from lit_viz.launch.config import ConfiguredMethod
    from lit_viz.launch.run import Run
    from lit_viz.networks import Network
    from lit_viz.types import Record

# How long threads of PyTorch wait for each other before they let others run. With GNU's default, a command takes up to
# ten times as long as soon as another process uses a processor; with this one, as long as before on idle processors.
_SPIN_COUNT = "3000"

#: Help by command.
_USAGES = {
    **USAGES,
    "demo": """\
usage: lit-viz demo [--out RUN] [--resume] [--iterations N] ...

Run all methods on packaged images, offline. The options are those of the methods.
--resume  continue the demo in RUN

Example: lit-viz demo --out runs/first --iterations 20
""",
    "check": """\
usage: lit-viz check RUN [--faithfulness] [--trust] [--photographs FOLDER]

Verify the images of a run with all available evidence.
--faithfulness  measure saliency maps: deletion and insertion, sensitivity, randomization of the network's
                layers. It costs 198 forwards per map and 14 times the evaluations of the map.
--trust         attack the images that were not fooled within eps also by random points, Square and a large eps
--photographs   compare class images with photographs of their class, layer by layer: files and folders, with commas;
                the class is the name of the folder, or else the prediction

Example: lit-viz check runs/fooled --trust
""",
    "resume": """\
usage: lit-viz resume RUN [--slots N] [--devices N] [--wandb MODE] ...

Continue a run from its last checkpoint, or print the results of a finished run. Options that determine
the images are fixed. These options may change:
--slots N            images optimized at the same time
--devices N          and every other --trainer option, such as --trainer.accelerator cpu
--devices-mode MODE  devices share the images, or the views of each image
--logger NAMES       wandb,tensorboard,mlflow,csv; --wandb MODE, --project NAME, --tags A,B
--checkpoint-every N steps between checkpoints
--figure FORMAT      png, pdf or svg; --check, --explain as in the command of the run

Example: lit-viz resume runs/fooled --slots 4 --devices 2 --trainer.accelerator cpu --wandb offline
""",
    "log": """\
usage: lit-viz log RUN --to wandb,tensorboard,mlflow,csv [--project NAME] [--tags A,B] [--wandb MODE] ...

Log a run folder: metrics and images at their iterations, results, evidence and summary. Use it after an offline
run, after a timeout of the service, or to add a logger. Only what a logger lacks is logged.
--to NAMES           wandb: online, as the run with the id in the run folder; tensorboard, csv: files in the run
                     folder; mlflow: the store of MLFLOW_TRACKING_URI, or MLflow's default
--project NAME       W&B project or MLflow experiment
--tags A,B           tags in W&B and MLflow; --group NAME and --job-type NAME: of W&B
--wandb MODE         auto, online or offline

Example: lit-viz log runs/fooled --to wandb,tensorboard
""",
    "epochs": """\
usage: lit-viz epochs FOLDER

Draw the results of a probe by epoch: epochs.png and epochs.gif in FOLDER, the argument out= of the probe.

Example: lit-viz epochs runs/probes/classes
""",
    "classes": """\
usage: lit-viz classes [PART] [--network NAME] [--network.labels FILE] ...

List the classes whose name contains PART.

Example: lit-viz classes terrier
""",
    "layers": """\
usage: lit-viz layers [NETWORK] [--network.size N] ...

List the layers of a network and their outputs.

Example: lit-viz layers torchvision/resnet18 --network.weights none
""",
    "microscope": """\
usage: lit-viz microscope NETWORK --layers PATTERNS --photographs FOLDER --out FOLDER [--compare NETWORK] ...

Make pages of the units of a network: synthetic images, the photographs that activate each unit most, the distribution
of its activation, and the classes that it raises and lowers. The same command continues an interrupted one.
--layers PATTERNS    names of layers or patterns, with commas: "blocks.4.*"; lit-viz layers lists them
--photographs FOLDER files and folders, with commas
--out FOLDER         receives site/index.html, and a run folder per layer
--channels UNITS     numbers and ranges such as 3,14-20, or all
--compare NETWORK    another network with the same layers: rank the units that differ, and show both side by side;
                     --compare.weights FILE for another checkpoint of the same network
--network.weights FILE  and other options of the network, which hold for both
--config NAME        configuration of the synthetic images; --iterations N
--count              print evaluations, time and disk space, and end

Example: lit-viz microscope efficientnet_lite0 --layers blocks.1.0,blocks.4.1 --photographs photos --out runs/microscope
""",
    "completion": """\
usage: lit-viz completion SHELL

Print the completion of commands and options for bash, zsh, fish or another shell of shtab (pip install shtab).

Example: lit-viz completion bash > ~/.local/share/bash-completion/completions/lit-viz
""",
}
#: Arguments and summaries of all commands.
_SUMMARIES = {
    "demo": ("", "all methods on packaged images, offline"),
    **SUMMARIES,
    "check": ("RUN", "compute all evidence of a run"),
    "resume": ("RUN", "continue a run, or print the results of a finished one"),
    "log": ("RUN --to wandb", "log a run folder to W&B, TensorBoard, MLflow or CSV"),
    "epochs": ("FOLDER", "draw the results of a probe by epoch"),
    "classes": ("tarant", "find a class by a part of its name"),
    "layers": ("NETWORK", "list the layers of a network"),
    "microscope": ("NETWORK --layers PATTERN", "pages of the units of a network"),
    "completion": ("bash", "print the completion for a shell"),
}
_COMMAND_LINES = {f"lit-viz {name} {words}": summary for name, (words, summary) in _SUMMARIES.items()}
_COMMAND_WIDTH = max(map(len, _COMMAND_LINES)) + 2
_HELP = """\
usage: lit-viz COMMAND ...

See what a vision network has learned by optimizing the input image against the frozen network.

{}

Options of a command: lit-viz COMMAND --help. Configurations, with papers and costs: configs/.""".format(
    "\n".join(f"  {line:<{_COMMAND_WIDTH}}{summary}" for line, summary in _COMMAND_LINES.items())
)
_HELP_OPTIONS = {"--help", "-h"}
_ALL_OPTIONS = "--help-all"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status: 0, 1 after an error, or 128 + the number of the signal."""
    if arguments is None:
        _run_process()
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals without Unicode
    with errors_reported("lit-viz"):
        _dispatch(list(arguments))


def _run_process() -> None:
    """Run the command of this process. A signal while Python ends does not change the exit status of the command."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch is imported
    status: Any = 0
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        status = end.code or 0
        raise
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(status))


def script(command: str) -> None:
    """Run a method's command with the arguments of this process."""
    sys.argv.insert(1, command)
    main()


@contextmanager
def errors_reported(program: str) -> Iterator[None]:
    """Report an exception as a one-line error after the program's name, and exit with its status.

    SIGTERM unwinds the stack as Ctrl-C does. During training, :class:`~lit_viz.callbacks.saving.ExactCheckpoint`
    handles the signal.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    handles = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if handles:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except LitVizError as error:
        if error.exit_status > 128 and not is_rank_zero():  # rank zero reports the interrupt
            sys.exit(0)
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt as interrupt:
        if is_rank_zero():
            print(f"{program}: stopped", file=sys.stderr)
        sys.exit(interrupt_exit_status(interrupt))
    except BrokenPipeError:  # the reader of a pipe has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{program}: {printable(str(error.filename))} is not accessible ({error.strerror})", file=sys.stderr)
        sys.exit(1)
    finally:
        if handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in (*_HELP_OPTIONS, _ALL_OPTIONS, "help"):
        print(_HELP)
        return
    name, *rest = arguments
    if name == "--version":
        from lit_viz import __version__

        print(f"lit_viz {__version__}")
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        **{method: partial(_method, method) for method in SUMMARIES},
        "demo": _demo,
        "check": _check,
        "resume": _resume,
        "log": _log,
        "epochs": _epochs,
        "classes": _classes,
        "layers": _layers,
        "microscope": _microscope,
        "completion": _completion,
    }
    if name not in commands:
        raise LitVizError(f"there is no command {name!r}{did_you_mean(name, commands) or ': see lit-viz --help'}")
    if _HELP_OPTIONS & set(rest):
        print(_USAGES[name], end="")
        return
    if _ALL_OPTIONS in rest:
        print(_all_options(name), end="")
        return
    commands[name](rest)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable garbage collection during imports, and exclude the imported objects from it; this saves a second."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # Triton lists its remaining objects at exit, which is slow if they are frozen.
        atexit.register(lambda: gc.unfreeze() if "triton" in sys.modules else None)


def _all_options(name: str) -> str:
    """Return the help of a command with all options."""
    if name not in SUMMARIES:
        return _USAGES[name]
    with _gc_paused():
        from lit_viz.launch.config import all_options

    return all_options(COMMANDS[name])


# -- commands


def _method(name: str, arguments: list[str]) -> None:
    with _gc_paused():
        from lit_viz.launch.arguments import rewrite_arguments
        from lit_viz.launch.config import ConfiguredMethod, with_config
        from lit_viz.launch.cost import format_cost, run_cost
        from lit_viz.launch.execute import execute
        from lit_viz.launch.messages import naming_options, options_named

    command = COMMANDS[name]
    with options_named(command):
        arguments = rewrite_arguments(arguments, command)
        configured = ConfiguredMethod(command, with_config(command, arguments))
        configured.check()
        _notify_of_defaults(configured, arguments)
        if not configured.config.count:
            configured.choose_folder()
        module, tasks = configured.module_and_tasks()
        if configured.config.count:
            print(format_cost([run_cost(module, tasks)]))
            return
        run = execute(module, tasks, configured.options(), notify=naming_options(notify, command))
    _print_results(run)


def _notify_of_defaults(configured: ConfiguredMethod, arguments: Sequence[str]) -> None:
    """State the classes or photographs of the default configuration if none are given."""
    command = configured.command
    values = getattr(configured.config, command.positional)
    if values and not {f"--{command.positional}", "--config"} & set(arguments):
        defaults = ", ".join(map(str, values))
        notify(f"no {command.positional} given, using those of --config {command.default_config}: {defaults}")


def _demo(arguments: list[str]) -> None:
    with _gc_paused():
        from lit_viz.launch.arguments import rewrite_arguments
        from lit_viz.launch.options import utc_now

    given = [word for word in arguments if word not in ("--resume", "--overwrite")]
    words = rewrite_arguments(arguments)
    if "--out" in words:
        place = words.index("--out")
        out = words[place + 1]
        del words[place : place + 2]
    else:
        out = f"runs/demo/{utc_now()}"
        given = ["--out", out, *given]
    continuation = shlex.join(["lit-viz", "demo", *given, "--resume"])
    for name in SUMMARIES:
        demo = COMMANDS[name].demo
        notify(f"lit-viz {name} {' '.join(demo)}")
        with _continued_by(continuation):
            _method(name, [*demo, "--out", f"{out}/{name}", *words])


@contextmanager
def _continued_by(command: str) -> Iterator[None]:
    """Name a command that continues several runs when one of them is interrupted, in place of that of the run."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        message = f"stopped; continue with: {command}"
        raise LitVizError(message, exit_status=interrupt_exit_status(interrupt)) from interrupt
    except LitVizError as error:
        if error.exit_status <= 128:
            raise
        event = str(error).partition("; continue ")[0]
        raise LitVizError(f"{event}; continue with: {command}", exit_status=error.exit_status) from error


def _check(arguments: list[str]) -> None:
    flags = ("--faithfulness", "--trust")
    photographs: list[str] = []
    folders: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name == "--photographs":
            if not equals and not rest:
                raise LitVizError("--photographs expects a value")
            photographs += (value if equals else rest.pop(0)).split(",")
        elif argument.startswith("-") and argument not in flags:
            known = (*flags, "--photographs")
            hint = did_you_mean(argument, known) or f": use {', '.join(known)}"
            raise LitVizError(f"unrecognized option {argument}{hint}")
        elif argument not in flags:
            folders.append(argument)
    if len(folders) != 1:
        raise _usage_error("check", arguments)
    with _gc_paused():
        from lit_viz.launch.messages import options_named
        from lit_viz.launch.resume import load_run
        from lit_viz.launch.run import check_folder, check_settings
        from lit_viz.runs.folder import FolderStorage

    faithfulness, trust = (flag in arguments for flag in flags)
    with options_named():
        configured = load_run(folders[0], notify=notify)
        module, options = configured.build(configured.load_network()), configured.options()
        settings = check_settings(module, options, faithfulness, trust, notify, photographs)
        passed = check_folder(module, options, FolderStorage.open(folders[0]), settings)
    if not passed:
        sys.exit(1)
    for name, file in (("evidence", "evidence.json"), ("report  ", "report.html")):
        if Path(folders[0], file).exists():
            print(f"{name} {folders[0]}/{file}")


def _resume(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        raise _usage_error("resume", arguments)
    with _gc_paused():
        from lit_viz.launch.execute import execute
        from lit_viz.launch.messages import naming_options, options_named
        from lit_viz.launch.resume import load_run

    with options_named():
        configured = load_run(arguments[0], arguments[1:], notify=notify)
        module = configured.build(configured.load_network())
        named = naming_options(notify, configured.command)
        run = execute(module, configured.stored_tasks(module), configured.options(), notify=named)
    _print_results(run)


def _log(arguments: list[str]) -> None:
    with _gc_paused():
        from lit_viz.launch.arguments import parse_logger_options
        from lit_viz.launch.config import settings_of
        from lit_viz.launch.logs import log_run
        from lit_viz.launch.messages import options_named

    options, folders = parse_logger_options(arguments)
    if len(folders) != 1 or options.to is None:
        raise _usage_error("log", arguments)
    with options_named():
        places = log_run(folders[0], options.to, settings_of(options), notify)
    for place in places:
        print(f"logged   {place}")


def _epochs(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise _usage_error("epochs", arguments)
    with _gc_paused():
        from lit_viz.figures.epochs import save_epochs

    left_out: list[str] = []
    paths = save_epochs(arguments[0], left_out.append)
    for name, path in zip(("figure   ", "animation"), paths, strict=False):
        print(f"{name} {path}")
    for line in left_out:
        notify(line)
    if left_out:
        sys.exit(1)


def _classes(arguments: list[str]) -> None:
    with _gc_paused():
        from lit_viz.launch.arguments import parse_network_options
        from lit_viz.launch.messages import options_named
        from lit_viz.networks.loading import class_names

        options, positionals = parse_network_options(arguments)
        with options_named():
            labels = class_names(**options)  # imports torchvision or timm
    part = " ".join(positionals).casefold().replace("_", " ")
    matches = [(index, label) for index, label in enumerate(labels) if part in label.casefold() or part == str(index)]
    if not matches:
        raise LitVizError(f"no class of {options['name']} contains {part!r}{did_you_mean(part, labels)}")
    for index, label in matches:
        print(f"{index:>5}  {label}")


def _microscope(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="lit-viz microscope", add_help=False, exit_on_error=False)
    for option in ("--layers", "--photographs", "--out", "--config", "--compare"):
        parser.add_argument(option)
    parser.add_argument("--channels", default="all")
    parser.add_argument("--iterations", type=int, default=None)
    parser.add_argument("--count", action="store_true")
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise LitVizError(f"{error}: see lit-viz microscope --help") from error
    for name in ("layers", "photographs", "out"):
        if getattr(options, name) is None:
            raise LitVizError(f"--{name} is required: see lit-viz microscope --help")
    for word in rest:
        if word.startswith("-") and not word.startswith(("--network", "--compare.", "--output")):
            raise LitVizError(f"unrecognized option {word}: see lit-viz microscope --help")
    with _gc_paused():
        from lit_viz.launch.messages import options_named
        from lit_viz.units import cost_text, microscope
    photographs = options.photographs.split(",")
    with _continued_by(shlex.join(["lit-viz", "microscope", *arguments])), options_named():
        network, other = _networks(rest, options.compare)
        if options.count:
            for loaded in filter(None, (network, other)):
                iterations = options.iterations
                text = cost_text(loaded, options.layers, photographs, options.channels, options.config, iterations)
                print(f"{loaded.name}: {text}")
            return
        chosen = {} if options.iterations is None else {"iterations": options.iterations}
        made = microscope(
            network, options.layers, photographs, options.out, channels=options.channels, compare=other,
            config=options.config, progress=True, **chosen,
        )  # fmt: skip
    print(f"site     {made.index}")
    if made.compared is not None:
        print(f"compared {made.index.with_name('compare.html')}")


def _networks(arguments: Sequence[str], compare: str | None) -> tuple[Network, Network | None]:
    """Load the network of a microscope, and the one that it is compared with.

    Args:
        arguments: its name and options ``--network.weights ...``; ``--compare.weights ...`` replace them for the
            other network.
        compare: name of the other network, if it has another one.
    """
    from lit_viz.launch.arguments import parse_network_options
    from lit_viz.outputs import load_network

    own: list[str] = []
    changes: list[str] = []
    if compare is not None:
        changes += ["--network.name", compare, "--network.weights", "DEFAULT"]
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            own += ["--network.name", word]
            continue
        is_change = word.startswith("--compare.")
        option = [word.replace("--compare.", "--network.")]
        if "=" not in word and rest:
            option.append(rest.pop(0))
        (changes if is_change else own).extend(option)
    options, _ = parse_network_options(own)
    network = load_network(options.pop("name"), **options)
    if not changes:
        return network, None
    options, _ = parse_network_options([*own, *changes])
    return network, load_network(options.pop("name"), **options)


def _layers(arguments: list[str]) -> None:
    with _gc_paused():
        from lit_viz.launch.arguments import parse_network_options
        from lit_viz.launch.messages import options_named
        from lit_viz.networks import layer_names
        from lit_viz.networks.layers import layouts
        from lit_viz.outputs import load_network

    is_named = arguments and not arguments[0].startswith("-")
    options, positionals = parse_network_options(["--network", *arguments] if is_named else arguments)
    with options_named():
        network = load_network(options.pop("name"), **options)
    if positionals:
        raise LitVizError(f"lit-viz layers takes one network, got also {positionals[0]}")
    modules = dict(network.original.named_modules())
    outputs = layouts(network)
    for name in layer_names(network.original):
        print(f"{name:<40} {type(modules[name]).__name__:<24} {outputs.get(name, 'not called, or no tensor')}")


def _completion(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise _usage_error("completion", arguments)
    with _gc_paused():
        from lit_viz.launch.completion import completion_script

    print(completion_script(arguments[0], {name: summary for name, (_, summary) in _SUMMARIES.items()}))


def _usage_error(command: str, arguments: Sequence[str]) -> LitVizError:
    return LitVizError(f"{_USAGES[command].splitlines()[0]}; got: {shlex.join(['lit-viz', command, *arguments])}")


# -- results

#: Columns of text; values longer than the width are wrapped.
_TEXT_COLUMNS = ("photograph", "class", "target", "method", "status", "image", "seen as")
_TEXT_WIDTH = 12
#: Columns that are omitted on a narrow terminal, in this order.
_OPTIONAL_COLUMNS = (
    "seconds", "status", "evaluations", "iterations", "before", "L2", "target", "method", "probability", "after",
)  # fmt: skip


def _print_results(run: Run) -> None:
    """Print the results, the errors and the files of a run, on rank zero only; exit with 1 if a task has failed."""
    if not is_rank_zero():
        return
    from rich.console import Console

    console = Console(emoji=False)
    console = console if console.is_terminal else Console(width=150, emoji=False)

    def print_line(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    from lit_viz.launch.run import check_finished

    presentation = run.presentation
    records = [outcome.record for outcome in run.outcomes]
    failed = [record for record in records if record.status == "failed"]
    if len(records) <= MOST_PRINTED:
        _print_table(console, presentation.table(records), records)
    else:
        classes = presentation.summary(records)
        _print_table(console, classes[:MOST_PRINTED])
        more = f"; {len(classes) - MOST_PRINTED} more classes" if len(classes) > MOST_PRINTED else ""
        print_line(f"all images are in results.jsonl{more}")
    explained = failed if any(record.status == "done" for record in records) else records
    errors = dict.fromkeys(f"{record.name}: {record.error}" for record in explained if record.error)  # unique
    for error in list(errors)[:MOST_PRINTED]:
        print_line(error)
    if failed or len(records) > 1:
        print_line(f"{pluralize(len(records), 'image')}: {status_summary(records)}")
    if run.folder is not None:
        figures, evolutions = (sorted(run.folder.glob(f"{name}.*")) for name in ("figure", "evolution"))
        print_line(f"\nresults  {run.folder}")
        for figure in figures:
            print_line(f"figure   {figure}")
        print_line(f"report   {run.folder}/report.html")
        files = " and ".join(file.name for file in [*figures, *evolutions])
        print_line(f"next     open {files}{_logs(run.folder)}; verify: {command_line('check', run.folder)}")
    check_finished(run)
    if failed:
        sys.exit(1)


def _logs(folder: Path) -> str:
    """Return where the loggers of a run show it, as clauses; an offline run of W&B can't be opened."""
    clauses = ""
    is_offline = any((folder / "wandb").glob("offline-run-*"))
    if (folder / "wandb" / "complete").exists() and not is_offline:
        clauses += ", or the run in W&B"
    if (folder / "tensorboard").is_dir():
        clauses += f", or tensorboard --logdir {folder}/tensorboard"
    return clauses


def _print_table(console: Console, rows: Sequence[Mapping[str, str]], records: Sequence[Record] | None = None) -> None:
    """Print rows as a table; with records, add their index and duration."""
    from rich.table import Table
    from rich.text import Text

    if records is not None:
        seconds = ["-" if record.seconds is None else f"{record.seconds:.1f}" for record in records]
        rows = [
            {"": str(record.index), **row, "seconds": duration}
            for record, row, duration in zip(records, rows, seconds, strict=True)
        ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _visible_columns(rows, console.width)
    for column in columns:
        is_text = column in _TEXT_COLUMNS
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    console.print(table)


def _visible_columns(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns that fit into a terminal of a width in characters."""
    columns = list(next(iter(rows), {}))
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    widths = {column: min(n, _TEXT_WIDTH) if column in _TEXT_COLUMNS else n for column, n in widths.items()}
    for optional in _OPTIONAL_COLUMNS:
        if sum(widths[column] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column != optional]
    return columns
