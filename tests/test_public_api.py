"""The frozen names, signatures, defaults and files: a change of the texts in ``tests/public_api`` is deliberate.

``python -m tests.test_public_api`` writes the texts anew.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

import lit_viz as lv
from lit_viz import methods
from lit_viz.cli import main
from lit_viz.runs.records import Record
from lit_viz.utils.parts import Part, constructor_parameters

ROOT = Path(__file__).parents[1]
TEXTS = Path(__file__).parent / "public_api"

FUNCTIONS = ("attack", "check", "load_network", "log", "merge", "microscope", "resume", "run", "saliency", "visualize")
TASKS = ("ClassTasks", "ImageTasks", "LayerTasks", "TaskQueue")
FUNCTIONAL = ("functional.attack", "functional.saliency")
MODULES = tuple(methods.__all__)
OPTIONS = ("LoggerSettings", "PictureOptions")

_NETWORK = [
    "--network", "tests.support.networks:smooth_network", "--network.weights", "none", "--network.size", "16",
    "--network.mean", "0.5", "--network.std", "0.25", "--wandb", "disabled",
]  # fmt: skip
#: Command lines by the names of their files.
RUNS = {
    "attack": "attack packaged:chelsea --target 2 --attack pgd --eps 1/255,4/255 --iterations 3",
    "saliency": "saliency packaged:chelsea --method gradient,occlusion --method.occlusion.window 8 --captum none",
    "channels": "visualize --layer features.3 --channel 0,2-3 --iterations 3",
}
#: Command lines of which the first records are of the other kinds.
OTHERS = {
    "classes": "visualize 1 --iterations 2",
    "universal": "attack packaged:chelsea packaged:coffee --attack universal --iterations 2",
}


def public_names() -> str:
    """Return the names of the package, one a line."""
    return "".join(f"{name}\n" for name in dir(lv))


def signatures() -> str:
    """Return the parameters of the public functions and classes with types and defaults, one a line."""
    lines: list[str] = []
    for name in (*FUNCTIONS, *FUNCTIONAL, *TASKS, *MODULES, *OPTIONS):
        owner = attrgetter(name)(lv)
        lines.append(name)
        is_function = inspect.isfunction(owner)
        parameters = inspect.signature(owner).parameters if is_function else constructor_parameters(owner)
        before: Any = None
        for parameter in parameters.values():
            if before != parameter.KEYWORD_ONLY == parameter.kind:
                lines.append("    *")
            lines.append(f"    {described(parameter)}")
            before = parameter.kind
    return "\n".join(lines) + "\n"


def described(parameter: inspect.Parameter) -> str:
    """Return a parameter with its type and its default; of a part, the class."""
    words = f"{parameter.name}: {parameter.annotation}"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{words}"
    if parameter.default is parameter.empty:
        return words
    default = parameter.default
    return f"{words} = {type(default).__name__ + '()' if isinstance(default, Part) else repr(default)}"


def configuration(folder: Path) -> str:
    """Return the configuration of a run; of what it records about the installation, the keys."""
    values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    recorded = values["recorded"]
    values["recorded"] = {name: value if name in ("format", "module") else ANY for name, value in recorded.items()}
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text


ANY = "..."


def first_record(folder: Path) -> dict[str, Any]:
    """Return the first record of a run."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    record: dict[str, Any] = json.loads(lines[0])
    return record


def make_runs(folder: Path) -> dict[str, Path]:
    """Make all runs, and return their folders by name."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, words in {**RUNS, **OTHERS}.items():
            main([*words.split(), *_NETWORK, "--out", name])
    finally:
        os.chdir(before)
    return {name: folder / name for name in (*RUNS, *OTHERS)}


def failed_record() -> dict[str, Any]:
    """Return the record of a task that failed before it started."""
    task = lv.Task(0, "broken", 7, source="broken.png")
    return json.loads(json.dumps(Record.of(task, status="failed", error="no image").to_dict()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        return make_runs(tmp_path_factory.mktemp("public_api"))


def text(name: str) -> str:
    return (TEXTS / name).read_text(encoding="utf-8")


# -- names and signatures


def test_public_names() -> None:
    assert public_names() == text("names.txt")
    assert set(lv.__all__) | {"__version__"} == set(dir(lv))


@pytest.mark.slow
def test_names_and_a_record_of_a_fresh_process() -> None:
    line = text("records.jsonl").splitlines()[0]
    code = "import sys, json, lit_viz as lv; print(*dir(lv), sep='\\n'); "
    code += "print(lv.Record.read(json.loads(sys.stdin.read())).kind); [getattr(lv, name) for name in dir(lv)]"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"{text('names.txt')}{json.loads(line)['kind']}\n"


def test_signatures() -> None:
    assert signatures() == text("signatures.txt")


# -- files


@pytest.mark.parametrize("name", RUNS)
def test_configurations(name: str, runs: dict[str, Path]) -> None:
    assert configuration(runs[name]) == text(f"{name}.yaml")


def same_structure(value: Any, expected: Any, name: str = "") -> None:
    """Compare JSON values: keys in their order, and other values; numbers roughly, and durations by their type."""
    assert type(value) is type(expected), name
    if isinstance(expected, dict):
        assert list(value) == list(expected), name
        for key in expected:
            same_structure(value[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), name
        for item, wanted in zip(value, expected, strict=True):
            same_structure(item, wanted, name)
    elif isinstance(expected, float):
        assert name == ".seconds" or value == pytest.approx(expected, rel=0.05, abs=0.01), name
    else:
        assert value == expected, name


def test_records_of_each_kind(runs: dict[str, Path]) -> None:
    expected = [json.loads(line) for line in text("records.jsonl").splitlines()]
    found = [first_record(folder) for folder in runs.values()]
    own = {kind for kind, of_kind in Record.kinds.items() if of_kind.__module__.startswith("lit_viz.")}
    assert {line["kind"] for line in expected} == {*own, Record.kind}
    for line, wanted in zip([*found, failed_record()], expected, strict=True):
        same_structure(line, wanted)
        assert Record.read(line).to_dict().keys() == line.keys()


def write_texts() -> None:
    """Write all texts anew."""
    TEXTS.mkdir(exist_ok=True)
    (TEXTS / "names.txt").write_text(public_names(), encoding="utf-8")
    (TEXTS / "signatures.txt").write_text(signatures(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_runs(Path(scratch))
        for name in RUNS:
            (TEXTS / f"{name}.yaml").write_text(configuration(folders[name]), encoding="utf-8")
        records = [*(first_record(folder) for folder in folders.values()), failed_record()]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (TEXTS / "records.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write_texts()
