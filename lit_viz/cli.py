"""Command line: ``lit-viz COMMAND ...``. The files in ``scripts/`` run the same commands.

torch is imported within the commands, so that ``lit-viz --help`` is fast.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lit_viz.errors import (
    Interrupted,
    LitVizError,
    Terminated,
    did_you_mean,
    interrupt_exit_status,
    is_out_of_memory,
    printable,
)
from lit_viz.launch.early import check_words
from lit_viz.launch.specs import METHODS
from lit_viz.utils.formatting import command_line, notify, pluralize, status_summary
from lit_viz.utils.labels import imagenet_labels
from lit_viz.utils.limits import MOST_PRINTED, MOST_SUMMARIZED
from lit_viz.utils.process import is_rank_zero

if TYPE_CHECKING:
    from rich.console import Console

    from lit_viz.launch.run import Run
    from lit_viz.types import Record

# How long threads of PyTorch wait for each other before they let others run. With GNU's default, a command takes up to
# ten times as long as soon as another process uses a processor; with this one, as long as before on idle processors.
_SPIN_COUNT = "3000"

_HELP = """\
usage: lit-viz COMMAND ...

See what a vision network has learned by optimizing the input image against the frozen network.

{}

Options of a command: lit-viz COMMAND --help. Configurations, with papers and costs: configs/."""
_HELP_OPTIONS = {"--help", "-h"}
_ALL_OPTIONS = "--help-all"


@dataclass(frozen=True)
class CommandEntry:
    """An entry of the list of commands.

    Attributes:
        words: its arguments in the list of commands.
        summary: what it does.
        run: runs it with its words.
        needs_words: whether it prints its help without any.
    """

    words: str
    summary: str
    run: Callable[[list[str]], None]
    needs_words: bool = True


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
    """Run the command of this process. A signal while Python exits does not change the exit status of the command."""
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

    received: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    handles = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if handles:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except LitVizError as error:
        print(f"{program}: {error.as_option}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as interrupt:
        if not is_rank_zero():  # which reports the interrupt
            sys.exit(0)
        print(f"{program}: {interrupt}", file=sys.stderr)
        sys.exit(interrupt.exit_status)
    except KeyboardInterrupt as interrupt:
        if is_rank_zero():
            print(f"{program}: stopped", file=sys.stderr)
        sys.exit(interrupt_exit_status(interrupt))
    except (MemoryError, ImportError, RuntimeError, AttributeError) as error:
        if received:  # an import that the signal has interrupted may raise another error
            print(f"{program}: stopped", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
        if not is_out_of_memory(error):
            raise
        print(f"{program}: out of memory: raise the limit, or use smaller images or fewer slots", file=sys.stderr)
        sys.exit(1)
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
        print(_list_of_commands())
        return
    name, *rest = arguments
    if name == "--version":
        from lit_viz import __version__

        print(f"lit_viz {__version__}")
        return
    known = commands()
    if name not in known:
        raise LitVizError(f"there is no command {name!r}{did_you_mean(name, known) or ': see lit-viz --help'}")
    if _HELP_OPTIONS & set(rest) or _ALL_OPTIONS in rest:
        print(_help(name, rest), end="")
        return
    if not rest and known[name].needs_words:
        print(_help(name, rest), end="")
        sys.exit(1)
    check_words(name, rest)
    known[name].run(rest)


def commands() -> dict[str, CommandEntry]:
    """Return the commands by name, in the order of the help."""
    methods = {name: CommandEntry(spec.words, spec.summary, partial(_method, name)) for name, spec in METHODS.items()}
    demo = CommandEntry("", "all methods on packaged images, offline", _demo, needs_words=False)
    return {"demo": demo, **methods, **_OTHER_COMMANDS}


def _list_of_commands() -> str:
    """Return the help without a command."""
    lines = {f"lit-viz {name} {command.words}": command.summary for name, command in commands().items()}
    width = max(map(len, lines)) + 2
    return _HELP.format("\n".join(f"  {line:<{width}}{summary}" for line, summary in lines.items()))


def _help(name: str, words: Sequence[str]) -> str:
    """Return the help of a command: the packaged text, or with other words that of the parts that they choose."""
    packaged = Path(__file__).parent / "launch" / "help" / f"{name}.txt"
    if set(words) <= _HELP_OPTIONS and packaged.exists():
        return packaged.read_text(encoding="utf-8")
    with _gc_paused():
        from lit_viz.commands import help_text

    return help_text(name, words, every=_ALL_OPTIONS in words)


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


# -- commands


def _method(name: str, words: Sequence[str], others: Mapping[str, Any] | None = None) -> None:
    """Run a method by the words of its command line.

    Args:
        name: name of the command.
        words: the words.
        others: additional arguments, which take precedence.
    """
    with _gc_paused():
        from lit_viz.commands import form_of_words
        from lit_viz.launch.cost import format_cost, run_cost
        from lit_viz.launch.execute import execute
        from lit_viz.launch.form import Form
        from lit_viz.launch.methods import compared
        from lit_viz.launch.options import check_folder_is_new, default_folder
        from lit_viz.outputs.loading import load_recorded

    spec = METHODS[name]
    form, values = form_of_words(spec, words, others)
    is_run = not (values.get("count") or values.get("print_config"))
    if is_run and form.run.get("out") is None:
        form.run["out"] = default_folder(name, _first_word(values, spec.positional) or name)
    if is_run and is_rank_zero():
        for one in form.runs():
            check_folder_is_new(one.options())
    if spec.config and not values.keys() & {spec.positional, "layer", "config"}:
        defaults = ", ".join(map(str, form.tasks["init_args"].get(spec.positional, ())))
        notify(f"no {spec.positional} given, using the default of --config {spec.config}: {defaults}")
    network = load_recorded(form.network)
    if values.get("layer") is not None and "config" not in values:  # of which the network decides on the configuration
        out = form.run.get("out")
        form, _ = form_of_words(spec, words, others, network)
        form.run["out"] = out
    built = [(*one.build(network), one.options()) for one in form.runs()]
    if values.get("count"):
        print(format_cost([run_cost(module, tasks) for module, tasks, _ in built]))
        return
    given = _repeated(words)
    if "out" not in values:
        given += ["--out", str(form.run.get("out"))]
    continuation = shlex.join(["lit-viz", name, *given, "--resume"])
    runs: list[Run] = []
    for module, tasks, options in built:
        if values.get("print_config"):
            print(Form.of(module, tasks, options).to_yaml(), end="")
            continue
        with _continued_by(continuation) if len(built) > 1 else nullcontext():
            runs.append(execute(module, tasks, options, moves_network=True, notify=notify))
            _print_results(runs[-1])
    if len(runs) > 1:
        print(compared(runs, form.options()).table())
        _print_comparison(form.run["out"])


def _repeated(words: Sequence[str]) -> list[str]:
    """Return the words of a command that starts or continues the same run."""
    return [word for word in words if word not in ("--resume", "--overwrite")]


def _first_word(values: Mapping[str, Any], positional: str) -> Any:
    """Return the first class or photograph of a run, or its layer."""
    given = values.get(positional)
    if isinstance(given, list):
        return next(iter(given), None)
    return given or values.get("layer")


def _demo(words: list[str]) -> None:
    with _gc_paused():
        from lit_viz.commands import function_parser
        from lit_viz.launch.options import utc_now

    values = function_parser("demo").values(words)
    out = values.pop("out", None)
    given = _repeated(words)
    if out is None:
        out = f"runs/demo/{utc_now()}"
        given = ["--out", out, *given]
    continuation = shlex.join(["lit-viz", "demo", *given, "--resume"])
    for name, spec in METHODS.items():
        notify(f"lit-viz {name} {' '.join(spec.demo)}")
        with _continued_by(continuation):
            _method(name, spec.demo, values | {"out": f"{out}/{name}"})


@contextmanager
def _continued_by(command: str) -> Iterator[None]:
    """Name a command that continues several runs when one of them is interrupted, in place of that of the run."""
    continuation = f"continue with: {command}"
    try:
        yield
    except Interrupted as interrupt:
        raise Interrupted(interrupt.event, continuation, interrupt.exit_status) from interrupt
    except KeyboardInterrupt as interrupt:
        raise Interrupted("stopped", continuation, interrupt_exit_status(interrupt)) from interrupt


def _values(name: str, words: Sequence[str], *required: str) -> dict[str, Any]:
    """Return the values of a command's words.

    Raises:
        LitVizError: a required argument is missing.
    """
    with _gc_paused():
        from lit_viz.commands import function_parser

    parser = function_parser(name, words)
    values = parser.values(words)
    for argument in required:
        if values.get(argument) is None:
            option = argument.upper() if argument == parser.positional else f"--{argument}"
            raise LitVizError(f"lit-viz {name} requires {option}: see lit-viz {name} --help")
    return values


def _check(words: list[str]) -> None:
    values = _values("check", words, "folder")
    from lit_viz.api import check

    if not check(**values, progress=True):
        sys.exit(1)
    for name, file in (("evidence", "evidence.json"), ("report  ", "report.html")):
        if Path(values["folder"], file).exists():
            print(f"{name} {values['folder']}/{file}")


def _resume(words: list[str]) -> None:
    values = _values("resume", words, "folder")
    from lit_viz.api import resume_run

    _print_results(resume_run(values.pop("folder"), None, values, notify))


def _status(words: list[str]) -> None:
    values = _values("status", words, "folders")
    from lit_viz.launch.status import as_json, run_states, total

    is_json = values.pop("json", False)
    states = run_states(**values)
    if is_json:
        print(json.dumps(as_json(states), indent=2))
        return
    rows = [state.row() for state in states]
    if len(states) > 1:
        rows.append(total(states).row())
    _print_table(_console(), rows)


def _compare(words: list[str]) -> None:
    values = _values("compare", words, "folders")
    from lit_viz.api import compare
    from lit_viz.launch.options import utc_now

    out = values.setdefault("out", f"runs/compare/{utc_now()}")
    print(compare(**values).table())
    _print_comparison(out)


def _print_comparison(out: str) -> None:
    for path in sorted(Path(out).glob("comparison.*")):
        print(f"results  {path}")


def _merge(words: list[str]) -> None:
    values = _values("merge", words, "folders", "out")
    from lit_viz.api import resume_run
    from lit_viz.launch.merge import merge_shards

    merge_shards(values["folders"], values["out"], values.get("partial", False), notify)
    _print_results(resume_run(values["out"], None, {}, notify))


def _log(words: list[str]) -> None:
    values = _values("log", words, "folder")
    from lit_viz.api import log
    from lit_viz.loggers.base import LoggerSettings
    from lit_viz.outputs.loading import split_section

    settings, values = split_section(values, "logging")
    for place in log(**values, logging=LoggerSettings(**settings), progress=True):
        print(f"logged   {place}")


def _epochs(words: list[str]) -> None:
    values = _values("epochs", words, "folder")
    from lit_viz.figures.epochs import save_epochs

    omitted: list[str] = []
    paths = save_epochs(values["folder"], omitted.append)
    for name, path in zip(("figure   ", "animation"), paths, strict=False):
        print(f"{name} {path}")
    for line in omitted:
        notify(line)
    if omitted:
        sys.exit(1)


def _read(words: list[str]) -> None:
    values = _values("read", words, "images")
    from lit_viz.launch.answers import texts_by_name
    from lit_viz.outputs.loading import load_recorded, split_section

    options, values = split_section(values)
    network = load_recorded(options)
    for name, text in texts_by_name(network, values["images"], values.get("fit")):
        print(f"{printable(name)}\t{printable(text)}")


def _classes(words: list[str]) -> None:
    options: dict[str, Any] = {}
    parts: Sequence[str] = words
    labels = imagenet_labels()  # of the default network
    if any(word.startswith("-") for word in words):
        values = _values("classes", words)
        from lit_viz.networks.loading import class_names
        from lit_viz.outputs.loading import split_section

        options, others = split_section(values)
        parts = others.get("part", ())
        labels = class_names(**options)  # imports torchvision or timm
    part = " ".join(parts).casefold().replace("_", " ")
    matches = [(index, label) for index, label in enumerate(labels) if part in label.casefold() or part == str(index)]
    if not matches:
        name = options.get("name", "efficientnet_lite0")
        raise LitVizError(f"no class of {name} contains {part!r}{did_you_mean(part, labels)}")
    for index, label in matches:
        print(f"{index:>5}  {label}")


def _microscope(words: list[str]) -> None:
    values = _values("microscope", words, "network", "layers", "images", "out")
    from lit_viz.outputs.loading import load_recorded, split_section
    from lit_viz.units import cost_text, microscope

    options, values = split_section(values)
    compared, values = split_section(values, "compare")
    network = load_recorded(options)
    other = None
    if compared:
        if "name" in compared:
            options = options | {"weights": "DEFAULT"}
        other = load_recorded(options | compared, "compare")
    images, layers = str(values.pop("images")).split(","), values.pop("layers")
    if values.pop("count", False):
        selection = [values.get(name) for name in ("channel", "config", "iterations")]
        for loaded in filter(None, (network, other)):
            print(f"{loaded.name}: {cost_text(loaded, layers, images, selection[0] or 'all', *selection[1:])}")
        return
    with _continued_by(shlex.join(["lit-viz", "microscope", *words])):
        made = microscope(network, layers, images, values.pop("out"), compare=other, progress=True, **values)
    print(f"site     {made.index}")
    if made.compared is not None:
        print(f"compared {made.index.with_name('compare.html')}")


def _layers(words: list[str]) -> None:
    values = _values("layers", words)
    from lit_viz.networks import layer_names
    from lit_viz.networks.layers import layouts
    from lit_viz.outputs.loading import load_recorded, split_section

    options, _ = split_section(values)
    network = load_recorded(options)
    modules = dict(network.original.named_modules())
    outputs = layouts(network)
    for name in layer_names(network.original):
        print(f"{name:<40} {type(modules[name]).__name__:<24} {outputs.get(name, 'not called, or no tensor')}")


def _completion(words: list[str]) -> None:
    values = _values("completion", words, "shell")
    from lit_viz.commands import completion_script

    print(completion_script(values["shell"], {name: command.summary for name, command in commands().items()}))


_OTHER_COMMANDS = {
    "check": CommandEntry("RUN", "compute all evidence of a run", _check),
    "resume": CommandEntry("RUN", "continue a run, or print the results of a finished one", _resume),
    "status": CommandEntry("RUN ...", "how far runs and shards are, and which make no progress", _status),
    "compare": CommandEntry("RUN RUN ...", "compare methods or attacks of runs: one table and figure", _compare),
    "merge": CommandEntry("SHARD ... --out RUN", "merge the shards of a run, with evidence, figure and report", _merge),
    "log": CommandEntry("RUN --to wandb", "log a run folder to W&B, TensorBoard, MLflow or CSV", _log),
    "epochs": CommandEntry("FOLDER", "draw the results of a probe by epoch", _epochs),
    "read": CommandEntry("PHOTO_OR_FOLDER ...", "print the text that a network says or reads of each image", _read),
    "classes": CommandEntry("tarant", "find a class by a part of its name", _classes, needs_words=False),
    "layers": CommandEntry("NETWORK", "list the layers of a network", _layers, needs_words=False),
    "microscope": CommandEntry("NETWORK --layers PATTERNS", "pages of the units of a network", _microscope),
    "completion": CommandEntry("bash", "print the completion for a shell", _completion),
}

# -- results

#: Columns of text; values longer than the width are wrapped.
_TEXT_COLUMNS = ("run", "state", "photograph", "class", "target", "method", "status", "image", "seen as")
_TEXT_WIDTH = 12
#: Columns that are omitted on a narrow terminal, in this order.
_OPTIONAL_COLUMNS = (
    "seconds", "status", "evaluations", "iterations", "before", "L2", "target", "method", "probability", "after",
)  # fmt: skip


def _print_results(run: Run) -> None:
    """Print the results, the errors and the files of a run, on rank zero only; exit with 1 if a task has failed."""
    if not is_rank_zero():
        return

    console = _console()

    def print_line(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    from lit_viz.launch.run import check_finished

    endings = run.endings()
    summary, count = status_summary(endings.counts), endings.counts.total()
    if run.is_shard:
        print_line(f"{summary}; evidence, figure and report are made by lit-viz merge")
        print_line(f"results  {run.folder}")
        print_line(f"next     {command_line('merge', Path(str(run.folder)).parent)} --out RUN")
        check_finished(endings, run.folder)
        return
    if count <= MOST_PRINTED:
        records = run.records
        _print_table(console, run.presentation.rows(records, run.evidence), records)
    elif count <= MOST_SUMMARIZED:
        classes = run.presentation.summary(run.records)
        _print_table(console, classes[:MOST_PRINTED])
        more = ""
        if len(classes) > MOST_PRINTED:
            more = f"; {len(classes) - MOST_PRINTED} more classes"
        print_line(f"all images are in results.jsonl{more}")
    for error in endings.explained():
        print_line(error)
    if endings.counts["failed"] or count > 1:
        print_line(f"{pluralize(count, 'image')}: {summary}")
    if run.folder is not None:
        figures, evolutions = (sorted(run.folder.glob(f"{name}.*")) for name in ("figure", "evolution"))
        print_line(f"\nresults  {run.folder}")
        for figure in [*figures, *run.folder.glob("comparison.png")]:
            print_line(f"figure   {figure}")
        print_line(f"report   {run.folder}/report.html")
        files = " and ".join(file.name for file in [*figures, *evolutions])
        print_line(f"next     open {files}{_logs(run.folder)}; verify: {command_line('check', run.folder)}")
    check_finished(endings, run.folder)
    if endings.counts["failed"]:
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


def _console() -> Console:
    """Return the console of tables; 150 characters wide where it is no terminal."""
    from rich.console import Console

    console = Console(emoji=False)
    if console.is_terminal:
        return console
    return Console(width=150, emoji=False)


def _print_table(console: Console, rows: Sequence[Mapping[str, str]], records: Sequence[Record] | None = None) -> None:
    """Print rows as a table; with records, add their index and duration."""
    from rich.table import Table
    from rich.text import Text

    if records is not None:
        numbered: list[Mapping[str, str]] = []
        for record, row in zip(records, rows, strict=True):
            seconds = "-" if record.seconds is None else f"{record.seconds:.1f}"
            numbered.append({"": str(record.index), **row, "seconds": seconds})
        rows = numbered
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
    widths: dict[str, int] = {}
    for column in columns:
        widths[column] = max(map(len, (column, *(row[column] for row in rows))))
        if column in _TEXT_COLUMNS:
            widths[column] = min(widths[column], _TEXT_WIDTH)
    for optional in _OPTIONAL_COLUMNS:
        if sum(widths[column] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column != optional]
    return columns
