"""How the tasks of a run have ended, and what is printed about it."""

from __future__ import annotations

from pathlib import Path

import pytest

import lit_viz as lv
from lit_viz import cli
from lit_viz.errors import LitVizError
from lit_viz.launch.run import Endings, check_finished
from lit_viz.networks import Network
from lit_viz.types import Record


def ended(*endings: tuple[str, str | None], done: int = 0) -> Endings:
    counted = Endings()
    for index, (status, error) in enumerate(endings):
        counted.add(Record(index=index, name="image", status=status, error=error))
    counted.counts["done"] = done
    return counted


def test_failures_are_explained_and_without_a_done_task_all() -> None:
    endings = [("skipped", "b"), ("failed", "a"), ("failed", "a"), ("skipped", None)]
    assert ended(*endings, done=1).explained() == ["image: a"]
    assert ended(*endings).explained() == ["image: a", "image: b"]
    assert ended(done=3).explained() == []


def test_a_run_is_finished_unless_all_tasks_have_failed() -> None:
    assert check_finished(ended(done=3), None) is None
    some = ended(("skipped", "b"), ("failed", "a"), done=2)
    assert check_finished(some, None) == "1 skipped, 1 failed of 4 images: image: a"
    assert check_finished(ended(("skipped", "b")), None) == "1 skipped of 1 image: image: b"
    with pytest.raises(LitVizError, match=r"^2 failed of 2 images: image: a; see runs/a$"):
        check_finished(ended(("failed", "a"), ("failed", "b")), Path("runs/a"))


def test_many_images_are_counted_without_their_records(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "MOST_PRINTED", 1)
    monkeypatch.setattr(cli, "MOST_SUMMARIZED", 1)
    run = lv.visualize(smooth, [0, 1], iterations=1, out=tmp_path / "run", logger="none")
    monkeypatch.setattr(type(run), "records", property(lambda run: pytest.fail("all records were read")))
    cli._print_results(run)
    printed = capsys.readouterr().out
    assert printed.startswith("2 images: 2 done\n\nresults ")
