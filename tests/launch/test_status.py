"""The status of runs is read from what their last save has written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.launch.status import run_states, total
from lit_viz.networks import Network
from lit_viz.runs.access import run_lock
from tests.support.segments import change_text
from tests.support.shards import stop_at


def run_shard(network: Network, out: Path, shard: str | None) -> None:
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    lv.saliency(network, images, label=2, slots=1, captum="none", logger="none", out=out, shard=shard)


def age(folder: Path, seconds: float) -> None:
    """Let the last save of a run be some seconds ago."""
    for path in folder.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def test_the_states_of_shards(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_shard(smooth, tmp_path, "0/3")
    with monkeypatch.context() as patched:
        stop_at(patched, index=1)
        with pytest.raises(Interrupted):
            run_shard(smooth, tmp_path, "1/3")
    complete, stopped, missing = run_states([tmp_path])
    assert [state.state for state in (complete, stopped, missing)] == ["complete", "running", "not started"]
    assert [(state.tasks, state.done) for state in (complete, stopped, missing)] == [(3, 3), (2, 1), (2, 0)]
    assert stopped.rate is not None
    assert stopped.seconds_left == pytest.approx(1 / stopped.rate)
    assert (complete.seconds_left, missing.age) == (None, None)
    whole = total([complete, stopped, missing])
    assert (whole.tasks, whole.done, whole.state) == (7, 4, "1 complete, 1 not started, 1 running")

    for folder in (complete.folder, stopped.folder):
        age(Path(folder), 1000.0)
    assert [state.state for state in run_states([tmp_path])] == ["complete", "stalled", "not started"]
    assert run_states([stopped.folder], stale=2000.0)[0].state == "running"
    lit_viz("status", str(tmp_path))
    table = capsys.readouterr().out
    assert " stalled " in table
    assert "0:16:4" in table
    lit_viz("status", str(tmp_path), "--json")
    values = json.loads(capsys.readouterr().out)
    assert [state["state"] for state in values["runs"]] == ["complete", "stalled", "not started"]
    assert (values["total"]["tasks"], values["total"]["done"]) == (7, 4)


def test_the_state_of_an_ordinary_run(smooth: Network, tmp_path: Path, lit_viz: Any) -> None:
    out = tmp_path / "run"
    run_shard(smooth, out, None)
    (state,) = run_states([out])
    assert (state.state, state.tasks, state.done) == ("complete", 7, 7)
    assert lv.check(out, smooth)
    change_text(out, '"status": "done"', '"status": "x"')
    with pytest.raises(LitVizError, match=r"records/000000\.jsonl was changed after it was written: lit-viz resume"):
        run_states([out])
    lit_viz("status", str(tmp_path / "none"), expect=1)


def interrupted_run(network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was interrupted in its third task."""
    out = folder / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, index=2)
        with pytest.raises(Interrupted):
            run_shard(network, out, None)
    return out


def test_a_slow_task_is_not_stalled(smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it takes longer than the limit, its iterations are saved; its time counts in the rate."""
    out = interrupted_run(smooth, tmp_path, monkeypatch)
    age(out, 1000.0)
    ended = (out / "manifest.json").stat().st_mtime
    for path in (out / "records").iterdir():
        os.utime(path, (ended + 100, ended + 100))
    assert run_states([out])[0].state == "stalled"
    os.utime(out / "checkpoints" / "last.ckpt", (ended + 900, ended + 900))
    (state,) = run_states([out])
    assert state.state == "running"
    assert state.done == 3
    assert state.rate == pytest.approx(3 / 900)
    assert state.seconds_left == pytest.approx(4 * 300)


def test_a_step_that_takes_longer_than_the_limit_is_not_stalled(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = interrupted_run(smooth, tmp_path, monkeypatch)
    age(out, 1000.0)
    (out / ".lock").touch()  # of a process that was killed
    assert run_states([out])[0].state == "stalled"
    with run_lock(out):
        age(out, 1000.0)
        assert run_states([out])[0].state == "running"
        with pytest.raises(LitVizError, match="is in use"), run_lock(out):
            pass
    assert run_states([out])[0].state == "stalled"


def test_the_states_of_merged_runs(smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(2):
        run_shard(smooth, tmp_path / "shards", f"{index}/2")
        age(tmp_path / "shards", 1000.0)
    out = tmp_path / "merged"
    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.evidence.verifier.OutcomeVerifier.verify", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            lv.merge(tmp_path / "shards", out, smooth)
    (state,) = run_states([out])
    assert (state.state, state.tasks, state.done, state.rate, state.seconds_left) == ("running", 7, 7, None, None)
    age(out, 1000.0)
    assert run_states([out])[0].state == "stalled"
    lv.merge(tmp_path / "shards", out, smooth)
    (state,) = run_states([out])
    assert (state.state, state.done) == ("complete", 7)
