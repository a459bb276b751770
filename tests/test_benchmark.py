"""The benchmark: the evaluations of its loops, ratios as figures, and a run of every comparison."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.commands import parse_method
from lit_viz.images.reading import encode_png
from lit_viz.launch.methods import METHODS
from lit_viz.outputs import load_network
from scripts.benchmarks import COMPARISONS, FOLDER, GROUPS, clock, material, running
from scripts.benchmarks.material import loop
from tests.support import environment
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
    assert running.ratios(peers[:1], runs[:1]) == "3.00"


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


def test_a_table_is_of_a_commit_and_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- benchmark: floor -->\n<!-- end of floor -->\n")
    monkeypatch.setattr(running, "commit", lambda: "Commit 0123456789")
    assert not running.is_written("floor", page)
    running.write("floor", running.conditions(2, ["captum"], photographs=True), page)
    assert re.search(
        r"\nCommit 0123456789; .+ \(\w+\), \d+ threads of \d+ processors; Python .+, lit-viz .+, torch .+, captum .+; "
        r"photographs of .+; rounds: 2; \d{4}-\d\d-\d\d\.\n",
        page.read_text(),
    )
    assert running.is_written("floor", page)
    for other in ("Commit 1123456789", "Commit 0123456789 with changes", "Without a commit"):
        monkeypatch.setattr(running, "commit", lambda other=other: other)
        running.write("floor", running.conditions(2, [], photographs=False), page)
        assert "photographs" not in page.read_text()
        assert running.is_written("floor", page) == (other == "Commit 1123456789")
        monkeypatch.setattr(running, "commit", lambda: "Commit 0123456789")
        assert not running.is_written("floor", page)


def test_a_commit_is_the_last_one_of_the_measured_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROOT", tmp_path)
    assert running.commit() == "Without a commit"

    def git(*words: str) -> None:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    def write(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")

    git("init")
    write("lit_viz")
    git("add", ".")
    git("commit", "-m", "Add a file")
    first = running.commit()
    assert re.fullmatch(r"Commit [0-9a-f]{10}", first)
    write("docs")
    assert running.commit() == first
    git("add", ".")
    git("commit", "-m", "Add a page")
    assert running.commit() == first
    (tmp_path / "lit_viz" / "a.txt").write_text("b")
    assert running.commit() == f"{first} with changes"


def test_every_table_takes_at_most_forty_minutes() -> None:
    for comparison in COMPARISONS.values():
        assert 0 < comparison.minutes(comparison.rounds) <= 40


@pytest.mark.slow
def test_a_call_goes_on_with_the_missing_tables(tmp_path: Path) -> None:
    marks = {name: f"<!-- benchmark: {name} -->\n<!-- end of {name} -->\n" for name in COMPARISONS}
    for name in ("speed.md", "paper.md", "scale.md"):
        (tmp_path / name).write_text("".join(marks.values()))
    script = tmp_path / "call.py"
    script.write_text(CALL.format(scripts=ROOT / "scripts", page=tmp_path / "speed.md"))
    compared: list[list[str]] = []
    for fails in ("units", "none", "none"):
        done = subprocess.run([sys.executable, script, fails], capture_output=True, text=True, cwd=tmp_path)
        compared.append(re.findall(r"^comparing (\w+)$", done.stdout, re.MULTILINE))
        assert (done.returncode == 0) == (fails == "none"), done.stderr
    names = list(COMPARISONS)
    stopped = names.index("units")
    assert compared == [names[: stopped + 1], names[stopped:], []]
    for name, comparison in COMPARISONS.items():
        page = (tmp_path / comparison.page).read_text()
        assert f"<!-- benchmark: {name} -->\n\ntable of {name}\n\nCommit 0123456789; " in page


#: The benchmark with comparisons that print their name, of which one fails.
CALL = """
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, "{scripts}")
import benchmark


def compare(name):
    print("comparing", name, flush=True)
    assert name != failing
    return "table of " + name


failing = sys.argv.pop()
sys.argv += ["all", "--write"]
benchmark.running.PAGE = Path("{page}")
benchmark.running.commit = lambda: "Commit 0123456789"
benchmark.environment.make = lambda folder: None
benchmark.import_module = lambda path: SimpleNamespace(compare=lambda plan: compare(path.rpartition(".")[2]))
benchmark.main()
"""

#: A process with a child, both of which take ten minutes, run by a kept process.
SIDE = """
import subprocess
import sys
import time

sys.path.insert(0, "{scripts}")
from benchmarks import running


def call(function, arguments):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(arguments.strip(), "w") as file:
        print(running.os.getpid(), child.pid, file=file)
    time.sleep(600)


running.SCRIPT = __file__
if "--serve" in sys.argv:
    running.call = call
    running.serve()
else:
    running.Process(".").run("any.function", sys.argv[1])
"""


def is_running(process: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stopped_benchmark_ends_its_children(number: signal.Signals, tmp_path: Path) -> None:
    script, pids = tmp_path / "side.py", tmp_path / "pids"
    script.write_text(SIDE.format(scripts=ROOT / "scripts"))
    parent = subprocess.Popen([sys.executable, script, pids], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: pids.is_file() and pids.read_text().endswith("\n"))
    children = [int(pid) for pid in pids.read_text().split()]
    assert all(is_running(child) for child in children)
    os.kill(parent.pid, number)
    parent.wait(60)
    wait_until(lambda: not any(is_running(child) for child in children))


def test_the_page_begins_with_times_and_commands() -> None:
    beginning, _, _ = running.PAGE.read_text(encoding="utf-8").partition("\n## ")
    assert len(beginning.splitlines()) <= 25
    commands = re.findall(r"^(?:\w+=1 )?lit-viz (\w+) ([^#\n]*)", beginning, re.MULTILINE)
    assert len(commands) == 7
    for name, words in commands:
        if name in METHODS:
            assert parse_method(METHODS[name], shlex.split(words))


@pytest.mark.parametrize("page", sorted({comparison.page for comparison in COMPARISONS.values()}))
def test_a_page_has_a_place_for_each_of_its_tables(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    marks = re.findall(r"<!-- benchmark: (\w+) -->\n(?:.|\n)*?<!-- end of \1 -->", text)
    assert sorted(marks) == sorted(name for name, comparison in COMPARISONS.items() if comparison.page == page)


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
    assert f"\n{what}\n\n| " in output
    assert "rounds: 1" in output
    assert (tmp_path / "class_images.png").exists() == (what == "classes")
    assert what != "paper" or "| - |" not in output  # every claim has a value


@pytest.mark.slow
def test_a_side_has_a_process_of_its_own(tmp_path: Path) -> None:
    plan = running.Plan(1, False, tmp_path)
    assert 200 < plan.side("memory.smoothgrad", images=1, samples=1)["MiB"] < 4000
    with pytest.raises(SystemExit, match=r"memory.smoothgrad .* failed"):
        plan.side("memory.smoothgrad", images=1)


@pytest.mark.slow
def test_a_kept_process_runs_one_side_after_another(tmp_path: Path) -> None:
    plan = running.Plan(2, False, tmp_path)
    sides = {name: ("running.spread", {"values": [1.0, 2.0]}) for name in ("a", "b")}
    results = plan.in_turns(sides, keep=True)
    assert {name: len(each) for name, each in results.items()} == {"a": 2, "b": 2}
    assert list(plan.processes) == ["a", "b"]
    with pytest.raises(SystemExit, match=r"running.spread {} failed:\n(.|\n)*missing 1 required positional"):
        plan.side("running.spread", "a")
    plan.close()
    assert not plan.processes


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


def test_the_claims_of_the_paper_are_measured_in_ten_minutes() -> None:
    paper = COMPARISONS["paper"]
    assert paper.minutes(paper.rounds) <= 10
