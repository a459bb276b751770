"""The command line: arguments in, a run folder or a one-line error out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from lit_viz.cli import _print_table, errors_reported, main
from lit_viz.commands import parse_method
from lit_viz.engine.step import Step
from lit_viz.errors import LitVizError
from lit_viz.launch.form import Form
from lit_viz.launch.methods import METHODS, method_form, read_config
from lit_viz.runs.access import run_lock
from lit_viz.runs.segments import segment_files
from lit_viz.types import Record
from lit_viz.utils.files import FORMAT
from lit_viz.utils.yaml_files import config_folder
from tests.support.marks import slow
from tests.support.verdicts import verdicts

ROOT = Path(__file__).parents[1]
VISUALIZE = METHODS["visualize"]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("given", "expected"), [(None, "3000"), ("5", "5")])
def test_threads_of_a_command_wait_shortly_for_each_other(given: str | None, expected: str) -> None:
    code = "import atexit, os; atexit.register(lambda: print(os.environ['GOMP_SPINCOUNT'])); "
    code += "from lit_viz.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if given is not None:
        environment["GOMP_SPINCOUNT"] = given
    process = subprocess.run(
        [sys.executable, "-c", code, "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == expected


def test_positional_words_between_options_and_equal_signs() -> None:
    words = ["tarantula", "--network", "torchvision/vgg16", "goldfish", "--log-at=1,5", "--overwrite", "hay"]
    assert parse_method(VISUALIZE, words) == {
        "network": "torchvision/vgg16",
        "log_at": "1,5",
        "overwrite": True,
        "target": ["tarantula", "goldfish", "hay"],
    }


def test_positional_words_are_values_of_the_option() -> None:
    for words in (["3"], ["--target", "3"]):
        form = method_form(VISUALIZE, parse_method(VISUALIZE, words))
        assert form.tasks["init_args"]["target"] in (3, [3])
    assert parse_method(METHODS["saliency"], ["7.png", "[a].png"]) == {"images": ["7.png", "[a].png"]}


def test_an_option_that_is_given_again_replaces_its_value() -> None:
    """As in scripts whose last words are those of their own command line; several names are added."""
    words = ["--views", "3", "--views=1", "--lr", "0.1", "--step-rule.lr", "0.2", "--devices", "1", "--devices", "2"]
    values = parse_method(VISUALIZE, [*words, "--resume", "--no-resume", "--iterations", "5", "--iterations", "6,7"])
    assert values == {
        "views": 1,
        "step_rule.lr": 0.2,
        "trainer.devices": 2,
        "resume": False,
        "iterations": [6, 7],
    }
    names = ["--target", "hay", "--target", "tarantula", "--logger", "none", "--logger", "csv"]
    assert parse_method(VISUALIZE, names) == {"target": ["hay", "tarantula"], "logger": ["none", "csv"]}


def test_short_names_dotted_names_and_both_spellings_are_the_same_option() -> None:
    for name in ("lr", "step-rule.lr", "step_rule.lr"):
        assert parse_method(VISUALIZE, [f"--{name}", "0.1"]) == {"step_rule.lr": 0.1}
    for name in ("log-at", "log_at"):
        assert parse_method(VISUALIZE, [f"--{name}", "last"]) == {"log_at": "last"}
    assert parse_method(VISUALIZE, ["--devices", "2"]) == {"trainer.devices": 2}
    assert parse_method(VISUALIZE, ["--no-overwrite"]) == {"overwrite": False}


def test_values_with_a_leading_dash() -> None:
    assert parse_method(VISUALIZE, ["-1", "--seed", "-3"]) == {"seed": -3, "target": [-1]}
    assert parse_method(VISUALIZE, ["--neuron", "-1,-1"]) == {"neuron": "-1,-1"}
    with pytest.raises(LitVizError, match="unrecognized option -x: options start with two dashes"):
        parse_method(VISUALIZE, ["-x", "3"])


def test_contents_of_a_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("visualize", "0", "3", *small_options, "--iterations", "12", "--log-at", "1,6", "--out", str(run))
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "results.jsonl",
        "figure.png",
        "evolution.gif",
        "images/0000_class_0.png",
        "images/0001_class_3.png",
        "checkpoints/last.ckpt",
    } <= names
    assert [name for name in sorted(names) if name.startswith("frames/0000")] == [
        f"frames/0000_class_0/iter_{k:06d}.png" for k in (1, 6, 12)
    ]
    first, second = records(run)
    required = {
        "kind", "index", "name", "status", "target", "target_name", "seed", "iterations", "forwards", "backwards",
        "seconds", "file", "objective", "logit", "probability", "rank", "top5", "metrics", "settings",
    }  # fmt: skip
    assert required <= first.keys()
    assert (first["status"], first["target"], second["seed"]) == ("done", 0, 1)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["module"]["class_path"] == "lit_viz.ClassVisualization"
    assert config["module"]["init_args"]["iterations"] == 12
    assert config["recorded"]["format"] == FORMAT
    message = capsys.readouterr().out
    assert str(run) in message.replace("\n", "")
    assert "figure.png" in message


def test_a_run_that_fails_in_its_first_step_leaves_no_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lit_viz: Any,
    small_options: Any,
) -> None:
    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Step, "finish", failing)
    lit_viz("visualize", "1", *small_options, "--out", str(tmp_path / "run"), expect=1)
    assert "out of GPU memory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept_without_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, sentence: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    command = ["visualize", "1", *small_options, "--iterations", "2", "--out", str(run)]
    lit_viz(*command)
    before = (run / "results.jsonl").read_bytes()
    capsys.readouterr()
    lit_viz(*command, expect=1)
    assert f"{run} already holds a run: give resume to continue it, overwrite to replace it" in sentence(capsys)
    assert (run / "results.jsonl").read_bytes() == before
    lit_viz(*command, "--overwrite")
    lit_viz(*command, "--resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--iterations", "3"], "--iterations can't be changed: {} was started with 2, got 3"),
        (["--lr", "3"], "lr can't be changed: {} was started with "),
        (["--step-rule.adam.lr", "3"], "lr can't be changed: {} was started with "),
        (["--target", "2"], "--target can't be changed: {} was started with [1], got 2"),
        (["--network.size", "8"], "network.size can't be changed: {} was started with "),
        (["--group", "2"], "picture.group can't be changed: {} was started with 1, got 2"),
        (["--config", "small"], "--config only applies to a new run"),
        (["--itrations", "3"], "unrecognized option --itrations"),
        (["2"], "lit-viz resume takes no more words, got '2'"),
        (["--slts", "3"], "did you mean --slots"),
        (["--slots", "x"], "--slots must be a whole number, got 'x'"),
        (["--out", "elsewhere"], "--out only applies to a new run"),
        (["--overwrite"], "--overwrite only applies to a new run"),
        (["--trainer.accelerator", "tpu"], "accelerator=tpu with devices=1 is not available"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_options_that_a_resume_cannot_change(
    words: Sequence[str],
    message: str,
    started_run: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    sentence: Any,
) -> None:
    before = (started_run / "results.jsonl").read_bytes()
    lit_viz("resume", str(started_run), *words, expect=1)
    assert message.format(started_run) in sentence(capsys)
    assert (started_run / "results.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def started_run(tmp_path_factory: pytest.TempPathFactory, lit_viz: Any, small_options: Any) -> Path:
    run = tmp_path_factory.mktemp("started_run") / "run"
    lit_viz("visualize", "1", *small_options, "--iterations", "2", "--out", str(run))
    return run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 3}, "iterations can't be changed: {} was started with 2, got 3"),
        ({"views": 3}, "views can't be changed: {} was started with 2, got 3"),
        ({"target": [2]}, "target can't be changed: {} was started with 1, got "),
        ({"step_rule.lr": 3}, "step_rule.lr can't be changed: {} was started with "),
        ({"out": "elsewhere"}, "out only applies to a new run"),
        ({"slts": 3}, "slts is not an argument of .*; did you mean 'slots'"),
        ({"trainer": {"precision": "64-true"}}, "trainer.precision can't be changed: {} was started with 32-true, got"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_a_resume_cannot_change(changes: dict[str, Any], message: str, started_run: Path) -> None:
    import lit_viz as lv

    with pytest.raises(LitVizError, match=f"^{message.format(re.escape(str(started_run)))}"):
        lv.resume(started_run, **changes)


def test_options_that_a_resume_may_change(started_run: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any) -> None:
    import lit_viz as lv

    seen: list[dict[str, Any]] = []

    def executed(module: Any, tasks: Any, options: Any, **_: Any) -> lv.Run:
        stored = yaml.safe_load((started_run / "config.yaml").read_text())
        seen.append(yaml.safe_load(Form.of(module, tasks, options).to_yaml()) | {"tasks": stored["tasks"]})
        return lv.Run(module, (), options)

    monkeypatch.setattr("lit_viz.api.execute", executed)
    words = ["--slots=3", "--devices", "2", "--trainer.accelerator", "cpu", "--devices-mode", "views"]
    lit_viz("resume", str(started_run))
    lit_viz("resume", str(started_run), *words, "--project", "out", "--checkpoint-every", "7", "--wandb", "offline")
    lv.resume(started_run, slots=3, trainer={"accelerator": "cpu"})
    stored, changed, in_python = seen
    recorded = yaml.safe_load((started_run / "config.yaml").read_text())
    recorded["run"] |= {"resume": True, "overwrite": False}
    assert recorded == {**stored, "recorded": ANY}
    of_module = {**stored["module"]["init_args"], "slots": 3}
    assert in_python["module"]["init_args"] == of_module
    assert in_python["run"] == {**stored["run"], "trainer": {**stored["run"]["trainer"], "accelerator": "cpu"}}
    assert changed["module"]["init_args"] == {**of_module, "devices_mode": "views"}
    assert changed["run"] == {
        **stored["run"],
        "checkpoint_every": 7,
        "trainer": {**stored["run"]["trainer"], "devices": 2, "accelerator": "cpu"},
        "logging": {**stored["run"]["logging"], "project": "out", "wandb": "offline"},
    }


def test_resume_rejects_other_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, sentence: Any, small_options: Any
) -> None:
    from tests.support.networks import smooth_network

    network, weights, run = smooth_network(), tmp_path / "weights.pth", tmp_path / "run"
    torch.save(network.state_dict(), weights)
    words = [str(weights) if word == "none" else word for word in small_options]
    lit_viz("visualize", "1", *words, "--iterations", "2", "--out", str(run))
    recorded = yaml.safe_load((run / "config.yaml").read_text())["recorded"]["weights_sha256"]
    assert recorded == hashlib.sha256(weights.read_bytes()).hexdigest()
    lit_viz("resume", str(run))
    network.head.weight.data.mul_(2)
    torch.save(network.state_dict(), weights)
    capsys.readouterr()
    lit_viz("resume", str(run), expect=1)
    assert "started with other weights" in sentence(capsys)


def test_resume_rejects_another_module(tmp_path: Path) -> None:
    import lit_viz as lv
    from lit_viz.outputs import load_network
    from tests.support.networks import smooth_network

    network, run = smooth_network(), tmp_path / "run"
    lv.visualize(load_network(network, size=16), [1], iterations=2, out=run, wandb="disabled")
    recorded = yaml.safe_load((run / "config.yaml").read_text())["recorded"]["weights_sha256"]
    assert len(recorded) == 64
    lv.resume(run, load_network(network, size=16))
    hook = network.register_forward_hook(lambda _, __, logits: 1.1 * logits)
    with pytest.raises(LitVizError, match="but other logits"):
        lv.resume(run, load_network(network, size=16))
    hook.remove()
    network.head.bias.data[0] += 1e-3
    with pytest.raises(LitVizError, match="started with other weights"):
        lv.resume(run, load_network(network, size=16))


def test_a_run_killed_before_its_report_gets_its_evidence_on_resume(tmp_path: Path) -> None:
    import lit_viz as lv
    from lit_viz.outputs import load_network
    from tests.support.networks import smooth_network

    network, run = load_network(smooth_network(), size=16), tmp_path / "run"
    photographs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    lv.saliency(network, photographs, method="smoothgrad", iterations=2, out=run, wandb="disabled", captum="captum")
    output = (run / "evidence.json").read_text()
    for name in ("report.html", "evidence.json", "figure.png"):
        (run / name).unlink()
    lv.resume(run, network)
    assert all(verdicts(run))
    assert json.loads((run / "evidence.json").read_text()).keys() == json.loads(output).keys()
    assert (run / "report.html").exists()
    assert (run / "figure.png").exists()
    (run / "evidence.json").unlink()
    lv.resume(run, network)  # missing evidence is computed again
    assert json.loads((run / "evidence.json").read_text()).keys() == json.loads(output).keys()


def test_the_error_of_an_initial_photograph_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    lit_viz(
        "visualize",
        "1",
        *small_options,
        "--iterations",
        "1",
        "--init",
        "packaged:chelsea",
        "--out",
        str(tmp_path / "run"),
    )
    assert "training starts from the photograph to within 0." in capsys.readouterr().err


@pytest.mark.parametrize("method", ["visualize", "saliency", "attack"])
def test_help_has_no_markup(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([method, "--help-all"])
    message = capsys.readouterr().out
    assert "``" not in message
    assert not re.search(r":\w+:`", message)
    headings = [line[:-1] for line in message.splitlines() if re.match(r"[A-Z].*:$", line)]
    assert headings[:2] == ["What", "How"]
    assert headings[-4:] == ["The run", "The network", "Lightning's Trainer", "Instead of a run"]
    assert len(set(headings)) == len(headings)
    assert message.count("--network NETWORK") == 1


def test_default_photographs_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["attack", *small_options, "--target", "0", "--count"]
    lit_viz(*words)
    line = "no images given, using the default of --config normalized_ascent: packaged:chelsea"
    assert line in capsys.readouterr().err
    for named in (["packaged:coffee"], ["--images", "packaged:coffee"], ["--config", "pgd_linf"]):
        lit_viz(*words, *named)
        assert "using those" not in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    for words in (["--help"], ["visualize", "--help"], ["demo", "--help"], ["classes", "--help"], ["resume", "--help"]):
        lit_viz(*words)
        assert "lit-viz " in capsys.readouterr().out


def test_help_separates_commands_and_summaries(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    lit_viz("--help")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  lit-viz ")]
    columns = [line.strip().partition("  ")[2].lstrip() for line in lines]
    assert "pages of the units of a network" in columns
    assert all(columns)
    assert len({line.index(column) for line, column in zip(lines, columns, strict=True)}) == 1


def test_classes_finds_by_part(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    lit_viz("classes", "tarant")
    assert capsys.readouterr().out.split() == ["76", "tarantula"]


def test_control_characters_of_labels_and_file_names_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    escape, run = "\x1b[31mred\x1b[0m\x07\x1b]0;title\x07\u202e", tmp_path / "run"
    (tmp_path / "labels.txt").write_text("".join(f"{escape}{i}\n" for i in range(5)))
    options = [*small_options[:-2], "--network.labels", str(tmp_path / "labels.txt")]
    lit_viz("classes", "red", *options)
    assert capsys.readouterr().out.split() == [word for i in range(5) for word in (str(i), f"red{i}")]
    picture = tmp_path / f"{escape}.png"
    Image.new("RGB", (16, 16), "gray").save(picture)
    (tmp_path / f"{escape}2.png").write_text("not an image")
    lit_viz("saliency", str(tmp_path), *options, "--wandb", "disabled", "--captum", "none", "--out", str(run), expect=1)
    lit_viz("saliency", f"{escape}.jpg", *options, expect=1)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, (run / "report.html").read_text()):
        assert "red" in text
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert {record["name"] for record in records(run)} == {"red", "red2"}


@pytest.mark.parametrize(
    "path", sorted(config_folder().glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_packaged_configurations_parse_and_have_a_header(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "Cost:" in header
    assert f"Command: lit-viz {path.parent.name}" in header
    command = METHODS[path.parent.name]
    form = read_config(command, path)
    assert form.module["class_path"] in command.modules
    assert list(form.parts()) or path.stem == "auto"  # whose method follows from the network


# -- interruption


def interruptible(run: Path, *, small_options: Any, checkpoint_every: int = 4) -> list[str]:
    """Return the command of a run of some seconds."""
    words = ["visualize", "0", "1", "2", "3", "4", *small_options, "--slots", "2", "--iterations", "24", "--views", "1"]
    return [*words, "--checkpoint-every", str(checkpoint_every), "--log-at", "every:8", "--out", str(run)]


def start(run: Path, *words: str, small_options: Any, checkpoint_every: int = 4) -> BaseProcess:
    """Start the run in a forked process, which has torch imported already; its stderr is the file ``<run>.err``."""
    command = interruptible(run, small_options=small_options, checkpoint_every=checkpoint_every)
    arguments = ([*command, *words], run.with_suffix(".err"))
    process = get_context("fork").Process(target=_run_forked, args=arguments)
    process.start()
    return process


def _run_forked(command: list[str], errors: Path) -> None:
    with errors.open("w") as stream, redirect_stderr(stream), redirect_stdout(stream):
        main(command)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, contents: Any, lit_viz: Any, small_options: Any
) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    lit_viz(*interruptible(run, small_options=small_options))
    return contents(run)


@pytest.mark.parametrize(
    "stage", [slow("before the first checkpoint"), "in the middle", slow("after the first results")]
)
def test_a_killed_run_resumes_bit_equal(
    stage: str,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    contents: Any,
    lit_viz: Any,
    small_options: Any,
    wait_for: Any,
) -> None:
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    checkpoint_every = 100000 if stage.startswith("before") else 4
    process = start(run, small_options=small_options, checkpoint_every=checkpoint_every)
    conditions = {
        "before the first checkpoint": lambda: (run / "frames" / "0000_class_0" / "iter_000008.png").exists(),
        "in the middle": last.exists,
        "after the first results": lambda: bool(segment_files(run)),
    }
    wait_for(conditions[stage], process.is_alive)
    process.kill()
    process.join()
    assert last.exists() == (not stage.startswith("before"))
    lit_viz("resume", str(run))
    assert contents(run) == undisturbed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), slow(signal.SIGTERM, 143)])
def test_a_signal_saves_the_run(
    number: int,
    status: int,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    contents: Any,
    lit_viz: Any,
    small_options: Any,
    wait_for: Any,
) -> None:
    run = tmp_path / "run"
    process = start(run, small_options=small_options)
    wait_for((run / "frames" / "0000_class_0" / "iter_000008.png").exists, process.is_alive)
    os.kill(process.pid or 0, number)
    process.join(200)
    assert process.exitcode == status
    assert f"lit-viz resume {run}" in run.with_suffix(".err").read_text()
    assert (run / "checkpoints" / "last.ckpt").exists()
    lit_viz("resume", str(run))
    assert contents(run) == undisturbed
    lit_viz("resume", str(run))  # a finished run prints its results


def test_the_configuration_of_another_method_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, sentence: Any, small_options: Any
) -> None:
    lit_viz("visualize", "3", *small_options, "--iterations", "2", "--out", str(tmp_path / "first"))
    capsys.readouterr()
    held = str(tmp_path / "first" / "config.yaml")
    lit_viz("attack", "packaged:chelsea", "--config", held, "--out", str(tmp_path / "again"), expect=1)
    assert f"{held} is the configuration of lit-viz visualize, not of lit-viz attack" in sentence(capsys)


def test_a_signal_in_the_last_step_stops_the_run_before_its_evidence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lit_viz: Any,
    small_options: Any,
) -> None:
    run = tmp_path / "my run"
    finish = Step.finish

    def signalled(self: Step, *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Step, "finish", signalled)
        lit_viz("visualize", "2", *small_options, "--iterations", "1", "--out", str(run), expect=143)
    assert f"figure and evidence are not; continue with: lit-viz resume '{run}'" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    lit_viz("resume", str(run))
    assert (run / "report.html").exists()


def test_a_run_can_be_repeated_from_its_configuration(
    tmp_path: Path, contents: Any, lit_viz: Any, small_options: Any
) -> None:
    import lit_viz as lv
    from lit_viz.outputs import load_network
    from tests.support.networks import NAMES, smooth_network

    words = [
        "visualize",
        "3",
        *small_options,
        "--iterations",
        "2",
        "--seed",
        "5",
        "--resume",
        "--out",
        str(tmp_path / "first"),
    ]
    lit_viz(*words)
    held = tmp_path / "first" / "config.yaml"
    lit_viz("visualize", "--config", str(held), "--out", str(tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "first")
    network = load_network(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    in_memory = lv.visualize(network, "3", config=str(held))
    assert in_memory.folder is None
    assert in_memory.records[0]["seed"] == 5


def test_options_override_the_configuration_in_any_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    own = tmp_path / "own.yaml"
    values = yaml.safe_load((config_folder() / "visualize" / "small.yaml").read_text())
    values["module"]["init_args"]["iterations"] = 4
    own.write_text(yaml.safe_dump(values))
    small = ["visualize", "0", *small_options, "--count"]
    for words in (["--iterations", "6", "--config", str(own)], [f"--config={own}", "--iterations=6"]):
        lit_viz(*small, *words)
        assert capsys.readouterr().out.startswith("1 image, 6 steps")
    lit_viz(*small, "--config", str(own))
    assert capsys.readouterr().out.startswith("1 image, 4 steps")


def test_count_starts_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz(
        "visualize", "0", "1", "2", *small_options, "--iterations", "10", "--slots", "2", "--count", "--out", str(run)
    )
    assert capsys.readouterr().out.startswith("3 images, 20 steps, 60 evaluations")
    assert not run.exists()


def test_a_run_in_python_equals_its_resume(tmp_path: Path) -> None:
    import torch

    import lit_viz as lv
    from lit_viz.outputs import load_network
    from tests.support.networks import NAMES, smooth_network

    network = load_network(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    options = {"iterations": 5, "views": 1, "seed": 3}
    memory = lv.visualize(network, ["apple", 3], **options)
    folder = lv.visualize(network, ["apple", 3], out=tmp_path / "run", wandb="disabled", **options)
    again = lv.resume(tmp_path / "run", network)
    assert memory.folder is None
    assert memory.images.shape == (2, 3, 16, 16)
    assert torch.equal(memory.images, folder.images)
    assert torch.equal(memory.images, again.images)
    assert [record["seed"] for record in memory.records] == [3, 4]
    assert [record["target_name"] for record in folder.records] == ["apple", "date"]
    assert {*memory.records[0].flat(), "file"} == folder.records[0].flat().keys()
    assert memory.figure().axes


def run_of_names_with_markup(tmp_path: Path, *, lit_viz: Any, small_options: Any, name: str = "cät [b]") -> Path:
    """Return a run whose names hold markup of rich and characters that are not ASCII."""
    (tmp_path / "labels.txt").write_text("a [/b]\nb [bold]\nc\nd\nÄffchen [red]\n", encoding="utf-8")
    Image.new("RGB", (16, 16), "red").save(tmp_path / f"{name}.png")
    words = ["--network.labels", str(tmp_path / "labels.txt"), "--vary", "{target: [0, 1, 4]}"]
    words += ["--method", "smoothgrad", "--iterations", "4", "--captum", "none", "--out", str(tmp_path / "run")]
    lit_viz("saliency", str(tmp_path / f"{name}.png"), *small_options, *words)
    return tmp_path / "run"


NAMES_ON_ASCII_TERMINAL = ("c?t [b]", "a [/b]", "b [bold]", "?ffchen [red]", "? ")  # the last is a plus-minus sign


def test_names_with_markup_on_an_ascii_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, small_options: Any
) -> None:
    run, stream = (
        run_of_names_with_markup(tmp_path, lit_viz=lit_viz, small_options=small_options),
        io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
    )
    monkeypatch.setattr(sys, "stdout", stream)
    lit_viz("resume", str(run))
    stream.flush()
    printed = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert all(name in printed for name in NAMES_ON_ASCII_TERMINAL)


@pytest.mark.slow
def test_files_are_utf_8_in_any_locale(tmp_path: Path, lit_viz: Any, small_options: Any) -> None:
    """The name of the photograph is ASCII: Python itself can't open others in this locale."""
    run = run_of_names_with_markup(tmp_path, lit_viz=lit_viz, small_options=small_options, name="cat [b]")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "lit_viz", "resume", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **plain}, check=False)
    assert done.returncode == 0, done.stderr
    assert "cat [b]" in done.stdout
    assert all(name in done.stdout for name in NAMES_ON_ASCII_TERMINAL[1:])


def test_next_steps_name_existing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    for steps, pictures in (("1", "figure.png"), ("30", "figure.png and evolution.gif")):
        run = tmp_path / steps
        lit_viz("visualize", "2", *small_options, "--iterations", steps, "--out", str(run))
        assert f"next     open {pictures}; verify: lit-viz check {run}" in capsys.readouterr().out
        assert (run / "evolution.gif").exists() == ("evolution" in pictures)
    (run / "wandb" / "run-1").mkdir(parents=True)
    for name, mentions in (("run-1", False), ("complete", True), ("offline-run-1", False)):
        (run / "wandb" / name).mkdir(exist_ok=True)
        lit_viz("resume", str(run))
        assert (", or the run in W&B" in capsys.readouterr().out) == mentions


@pytest.mark.parametrize("out", [["--out", "RUN"], ["--out=RUN"]])
def test_the_demo_has_an_out_option(
    out: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any
) -> None:
    called: list[dict[str, Any]] = []
    monkeypatch.setattr("lit_viz.cli._method", lambda name, words, others: called.append({"name": name, **others}))
    lit_viz("demo", *out, "--iterations", "3")
    names = ("visualize", "saliency", "attack")
    assert called == [{"name": name, "out": f"RUN/{name}", "iterations": 3} for name in names]


def test_an_interrupted_demo_is_continued_by_one_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lit_viz: Any,
    small_options: Any,
) -> None:
    """It runs the interrupted method and those that follow."""
    monkeypatch.setattr("lit_viz.cli.METHODS", {"visualize": replace(VISUALIZE, demo=("2",))})
    out, options = tmp_path / "my demo", [*small_options, "--iterations", "2"]
    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.launch.run.write_report", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        lit_viz("demo", "--out", str(out), "--overwrite", *options, expect=130)
    message = capsys.readouterr().err.splitlines()[-1]
    event, _, command = message.partition("; continue with: lit-viz ")
    assert event == "lit-viz: stopped: all images are done, figure and evidence are not"
    assert shlex.split(command) == ["demo", "--out", str(out), *options, "--resume"]
    lit_viz(*shlex.split(command))
    assert (out / "visualize" / "report.html").exists()
    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.outputs.loading.load_recorded", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        lit_viz(*shlex.split(command), expect=130)
    assert capsys.readouterr().err.splitlines()[-1] == f"lit-viz: stopped; continue with: lit-viz {command}"


@pytest.mark.parametrize("error", [RecursionError, ImportError, AttributeError])
def test_an_import_that_sigterm_interrupts_ends_with_its_status(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise error("partially initialized module") from None

    with pytest.raises(SystemExit) as end, errors_reported("lit-viz"):
        interrupted()
    assert end.value.code == 143
    assert capsys.readouterr().err == "lit-viz: stopped\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_report_names_the_resume_command(
    number: int,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lit_viz: Any,
    small_options: Any,
) -> None:
    run = tmp_path / "run"

    def stopped(*args: Any) -> None:
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.launch.run.write_report", stopped)
        lit_viz("visualize", "2", *small_options, "--iterations", "2", "--out", str(run), expect=status)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert f"stopped: all images are done, figure and evidence are not; continue with: lit-viz resume {run}" in (
        capsys.readouterr().err
    )
    lit_viz("resume", str(run))
    assert (run / "report.html").exists()


def test_an_interrupt_before_the_first_step_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, small_options: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_viz.outputs.loading.load_recorded", interrupted)
    lit_viz("visualize", "2", *small_options, "--out", str(tmp_path / "run"), expect=130)
    assert not (tmp_path / "run").exists()


def test_a_locked_run_is_rejected_by_all_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, sentence: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    new = ["visualize", "2", *small_options, "--iterations", "2", "--out", str(run)]
    lit_viz(*new)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    for words in ([*new, "--overwrite"], [*new, "--resume"], ["resume", str(run)], ["check", str(run)]):
        capsys.readouterr()
        with run_lock(run):
            lit_viz(*words, expect=1)
        assert f"{run} is in use" in sentence(capsys)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_runs_started_in_the_same_second_have_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, small_options: Any
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_viz.launch.options.utc_now", lambda: "20260102-030405")
    for _ in range(3):
        lit_viz("visualize", "2", *small_options, "--iterations", "1")
    names = sorted(path.name for path in (tmp_path / "runs" / "visualize").iterdir())
    assert names == ["20260102-030405_2", "20260102-030405_2_2", "20260102-030405_2_3"]


TABLE = [
    {
        "photograph": "a photograph with a long name", "target": "any other", "status": "done", "in the file": "fooled",
        "seen as": "American black bear", "before": "0.273", "after": "0.218", "iterations": "37", "L2": "5.796",
        "Linf": "145/255",
    }
]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (150, "photograph target status in the file seen as before after iterations L2 Linf seconds"),
        (100, "photograph target in the file seen as before after iterations L2 Linf"),
        (60, "photograph in the file seen as after Linf"),
        (52, "photograph in the file seen as Linf"),
    ],
)
def test_columns_are_omitted_on_a_narrow_terminal(width: int, columns: str) -> None:
    file = io.StringIO()
    _print_table(Console(file=file, width=width), TABLE, [Record(index=7, name="a photograph", seconds=1.25)])
    header, first, *_ = file.getvalue().splitlines()
    assert " ".join(header.split()) == columns
    assert first.startswith("7  a photograph")
    assert "145/255" in first
    assert all(len(line) <= width for line in file.getvalue().splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("words", "status"), [(["--version"], 0), (["vizualise"], 1)])
def test_a_signal_while_python_ends_keeps_the_exit_status(words: list[str], status: int, number: int) -> None:
    code = f"import os, sys, atexit; atexit.register(os.kill, os.getpid(), {int(number)})\n"
    code += f"sys.argv = {['lit-viz', *words]}\nimport lit_viz.cli; lit_viz.cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert (done.stdout + done.stderr).count("\n") == 1
