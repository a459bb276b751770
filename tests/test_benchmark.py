"""The benchmark: the evaluations of its loops, ratios as figures, and a run of every comparison."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.commands import parse_method
from lit_viz.images.reading import encode_png
from lit_viz.launch.methods import COMMANDS
from lit_viz.outputs import load_network
from scripts.benchmarks import COMPARISONS, FOLDER, GROUPS, clock, environment, material, running
from scripts.benchmarks.material import loop
from tests.support.networks import smooth_network
from tests.support.peers import require_peers

ROOT = Path(__file__).parents[1]


class Counted(torch.autograd.Function):
    """Counts the images of each pass."""

    forwards = backwards = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Counted.forwards += len(x)
        return x.flatten(1)[:, :2].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Counted.backwards += len(gradient)
        return torch.zeros(len(gradient), 3, 224, 224)


@pytest.mark.parametrize(
    ("forwards", "backwards"), [(7, 7), (9, 4), (5, 0), (3, 9)], ids=["FB", "more F", "F only", "more B"]
)
def test_the_bare_loop_evaluates_as_often_as_the_run(forwards: int, backwards: int) -> None:
    run = loop(Counted.apply, forwards, backwards, batch=2)
    Counted.forwards = Counted.backwards = 0  # what came before warms up
    run()
    assert (Counted.forwards, Counted.backwards) == (forwards, backwards)


def test_ratios_are_of_the_same_round() -> None:
    peers = [{"seconds": 6.0}, {"seconds": 4.0}]
    runs = [{"seconds": 2.0, "evidence": 1.0}, {"seconds": 4.0, "evidence": 4.0}]
    assert running.ratios(peers, runs) == "1.00 / **2.00** / 3.00"
    assert running.ratios(peers, runs, "evidence") == "0.50 / **1.25** / 2.00"
    assert running.evidence(runs) == "2.5 s (83%)"


def test_a_clock_counts_each_interval_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now)

    class RestartSchedule:
        @staticmethod
        def inner() -> None:
            nonlocal now
            now += 3

        @staticmethod
        def outer() -> None:
            nonlocal now
            now += 1
            RestartSchedule.inner()

    places = [(RestartSchedule, "inner", "evidence"), (RestartSchedule, "outer", "step")]
    with clock.time_parts(places) as counted:
        now += 0.5
        RestartSchedule.outer()
        now += 0.25
    assert counted.seconds == {"outside": 0.75, "step": 1, "evidence": 3}
    RestartSchedule.outer()
    assert counted.seconds["step"] == 1


def test_a_table_is_put_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- benchmark: floor -->\nold\n<!-- end of floor -->\nafter\n")
    for text in ("| a |", "| b |"):
        running.write("floor", text, page)
    assert page.read_text() == "before\n<!-- benchmark: floor -->\n\n| b |\n\n<!-- end of floor -->\nafter\n"
    with pytest.raises(SystemExit, match=r"no place for memory"):
        running.write("memory", "| a |", page)


def test_the_page_begins_with_times_and_commands() -> None:
    beginning, _, _ = running.PAGE.read_text(encoding="utf-8").partition("\n## ")
    assert len(beginning.splitlines()) <= 25
    commands = re.findall(r"^(?:\w+=1 )?lit-viz (\w+) ([^#\n]*)", beginning, re.MULTILINE)
    assert len(commands) == 7
    for name, words in commands:
        if name in COMMANDS:
            assert parse_method(COMMANDS[name], shlex.split(words))


def test_the_page_has_a_place_for_every_table() -> None:
    marks = re.findall(
        r"<!-- benchmark: (\w+) -->\n(?:.|\n)*?<!-- end of \1 -->", running.PAGE.read_text(encoding="utf-8")
    )
    assert sorted(marks) == sorted(COMPARISONS)


def test_an_unreachable_registry_gives_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PEERS", {"no-such-peer": "1"})
    monkeypatch.setattr(environment, "_NEEDED", ())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        SystemExit, match=r"could not be installed into .*No matching distribution.* give it by --peers"
    ):
        environment.make(tmp_path)


def benchmark(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmark.py", *words], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", COMPARISONS)
def test_a_comparison_runs(what: str, tmp_path: Path) -> None:
    if what in (*GROUPS["peers"], "strength"):
        require_peers()
    output = benchmark(what, "--quick", "--out", str(tmp_path))
    assert output.startswith(f"\n{what}\n\n| ")
    assert "rounds: 1" in output
    assert (tmp_path / "class_images.png").exists() == (what == "classes")


@pytest.mark.slow
def test_a_side_has_a_process_of_its_own(tmp_path: Path) -> None:
    plan = running.Plan(1, False, tmp_path, (), (), (), None)
    assert 200 < plan.side("memory.smoothgrad", images=1, samples=1)["MiB"] < 4000
    with pytest.raises(SystemExit, match=r"memory.smoothgrad .* failed"):
        plan.side("memory.smoothgrad", images=1)


@pytest.mark.slow
def test_a_kept_process_runs_one_side_after_another(tmp_path: Path) -> None:
    plan = running.Plan(2, False, tmp_path, (), (), (), None)
    sides = {name: ("environment.missing", {"folder": str(tmp_path / name)}) for name in ("a", "b")}
    results = plan.in_turns(sides, keep=True)
    assert {name: len(each) for name, each in results.items()} == {"a": 2, "b": 2}
    assert list(plan.processes) == ["a", "b"]
    with pytest.raises(SystemExit, match=r"environment.missing {} failed:\n(.|\n)*missing 1 required positional"):
        plan.side("environment.missing", "a")
    plan.processes["b"].close()


def test_photographs_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn by a seed, each once, and repeated beyond their number."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encode_png(torch.full((3, 4, 4), number / 255)))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    net = load_network(smooth_network(), labels=list("abcde"), mean=[0.5] * 3, std=[0.25] * 3, size=224)
    x, labels = material.photographs(net, 7)
    levels = (x[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(levels[:5]) == [0, 1, 2, 3, 4] != levels[:5]
    assert levels[5:] == levels[:2]
    assert labels == net.scores(x).argmax(1).tolist()
    assert (x.shape, len(material.photographs(net, 3)[1])) == ((7, 3, 224, 224), 3)
