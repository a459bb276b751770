import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_viz.callbacks import progress as module_under_test
from lit_viz.callbacks.progress import Progress
from lit_viz.networks import Network
from lit_viz.utils.formatting import ignore

ZERO = SimpleNamespace(is_global_zero=True)


class Network:
    """The notes of a network."""

    log_notes = Network.log_notes

    def __init__(self):
        self.notes, self.logged_notes = ["a note of the network"], set()


class Module:
    """A run of four images of 100 updates, one of which fails and one of which is skipped."""

    notes = ("a note of the method",)
    restarts = 0

    def __init__(self, before=0, early=1):
        self.updates, self.early = before, early  # images end after that part of their updates
        self.network = Network()

    def progress(self):
        done = self.updates // 100
        return SimpleNamespace(
            total=4,
            ended=done,
            failed=int(done == 4),
            skipped=int(done == 4),
            updates_done=self.updates,
            updates_made=self.updates // self.early,
            updates_total=400,
            probability=self.updates / 400,
            iteration=self.updates % 100,
        )


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module_under_test.time, "monotonic", lambda: now.seconds)
    return now


def run(callback, module, clock, until=400, steps_a_second=20):
    callback.on_train_start(ZERO, module)
    while module.updates < until:
        module.updates += 1
        clock.seconds += 1 / steps_a_second
        callback.on_train_batch_end(ZERO, module, None, None, module.updates)


def on(terminal):
    file = io.StringIO()
    return file, Progress(console=Console(file=file, force_terminal=terminal, width=120, color_system=None))


def test_a_log_file_gets_a_first_and_a_last_line(clock):
    file, callback = on(terminal=False)
    module = Module()
    run(callback, module, clock)
    callback.on_train_end(ZERO, module)
    lines = file.getvalue().splitlines()
    assert lines[0] == "4 images, 400 updates at most"
    assert lines[-1] == "2 of 4 images done (1 failed, 1 skipped): 20.0 s, 20 it/s"


def test_restarts_add_to_the_number_of_updates(clock):
    file, callback = on(terminal=False)
    module = Module()
    module.restarts = 2
    run(callback, module, clock)
    module.updates = 0  # an image has started again
    callback.on_train_end(ZERO, module)
    first, *_, last = file.getvalue().splitlines()
    assert first == "4 images, 400 updates, more if an image starts again"
    assert last.endswith("20.0 s, 0 it/s")


def test_a_log_file_of_a_long_run_gets_a_line_every_ten_seconds(clock):
    file, callback = on(terminal=False)
    module = Module()
    run(callback, module, clock, steps_a_second=4)
    callback.on_train_end(ZERO, module)
    lines = file.getvalue().splitlines()
    assert lines[3:-1:3] == [
        "1/4 images · iteration 20 · p = 0.30 · 4 it/s · 0:01:10 left",
        "2/4 images · iteration 40 · p = 0.60 · 4 it/s · 0:00:40 left",
        "3/4 images · iteration 60 · p = 0.90 · 4 it/s · 0:00:10 left",
    ]


def test_a_terminal_shows_images_iteration_probability_speed_and_remaining_time(clock):
    file, callback = on(terminal=True)
    module = Module()
    run(callback, module, clock, until=250, steps_a_second=16)
    callback.on_train_end(ZERO, module)
    shown = re.findall(
        r"(\d)/4 images.*?iteration (\d+) · p = ([\d.]+) · ([\d.]+) it/s · ([\d:]+) left", file.getvalue()
    )
    assert shown[-1] == ("2", "50", "0.62", "16", "0:00:09")
    assert len(set(shown)) == 125  # at 16 steps a second every second one: no faster than ten times a second


def test_updates_that_were_omitted_do_not_count_as_speed(clock):
    file, callback = on(terminal=True)
    module = Module(early=4)
    run(callback, module, clock, until=200, steps_a_second=10)
    callback.on_train_end(ZERO, module)
    assert "2.5 it/s · 0:00:20 left" in file.getvalue()
    assert file.getvalue().splitlines()[-1].endswith("20.0 s, 2.5 it/s")


def test_the_speed_of_a_resumed_run_is_its_own(clock):
    file, callback = on(terminal=False)
    module = Module(before=300)
    run(callback, module, clock, steps_a_second=10)
    callback.on_train_end(ZERO, module)
    assert file.getvalue().splitlines()[-1].endswith("10.0 s, 10 it/s")


def test_an_exception_gives_the_terminal_back(clock):
    file, callback = on(terminal=True)
    module = Module()
    run(callback, module, clock, until=150)
    callback.on_exception(ZERO, module, KeyboardInterrupt())
    callback.on_train_end(ZERO, module)
    assert file.getvalue().endswith("\x1b[?25h" + file.getvalue().rpartition("\x1b[?25h")[2])  # the cursor is back
    assert file.getvalue().count("1 of 4 images done, then stopped: 7.5 s, 20 it/s") == 1


@pytest.mark.parametrize(("quiet", "rank"), [(True, 0), (False, 1)])
def test_quiet_runs_and_other_ranks_print_nothing(clock, quiet, rank):
    file, callback = on(terminal=True)
    callback.quiet = quiet
    trainer = SimpleNamespace(is_global_zero=rank == 0)
    callback.on_train_start(trainer, Module())
    callback.on_train_batch_end(trainer, Module(), None, None, 0)
    callback.on_train_end(trainer, Module())
    assert file.getvalue() == ""


def test_notes_precede_the_run(clock, caplog):
    lines = []
    module = Module()
    for _ in range(2):  # two runs of a network
        Progress(lines.append, Console(file=io.StringIO())).on_train_start(ZERO, module)
    assert lines == ["a note of the network", "a note of the method", "a note of the method"]
    module = Module()
    for _ in range(2):
        Progress(None).on_train_start(ZERO, module)
    assert caplog.messages == ["a note of the network"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_script_shows_the_progress_of_long_runs_alone(terminal, clock):
    for steps_a_second in (50, 16):  # 8 seconds, 25 seconds
        file = io.StringIO()
        callback = Progress(None, Console(file=file, force_terminal=terminal, width=120, color_system=None))
        module = Module()
        run(callback, module, clock, steps_a_second=steps_a_second)
        callback.on_train_end(ZERO, module)
        if steps_a_second == 50:
            assert file.getvalue() == ""
    assert "iteration 60 · p = 0.40 · 16 it/s · 0:00:15 left" in file.getvalue()
    assert file.getvalue().splitlines()[-1].endswith("2 of 4 images done (1 failed, 1 skipped): 25.0 s, 16 it/s")
    silent = Progress(ignore, Console(file=file, force_terminal=terminal))
    before = file.getvalue()
    run(silent, Module(), clock, steps_a_second=1)
    assert file.getvalue() == before
