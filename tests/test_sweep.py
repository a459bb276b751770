"""A sweep: what options do, as one grid and one table."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_viz.errors import LitVizError
from lit_viz.methods.tasks import varied
from lit_viz.runs.access import is_run
from lit_viz.types import Task
from scripts.sweep import label_of, main, parse_arguments, sweep


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])


def rows(out: Path) -> list[dict[str, Any]]:
    with (out / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def few_options(small_options: list[str]) -> list[str]:
    return [*small_options, "--views", "1"]


def test_every_combination_of_a_task_has_its_seed_and_an_index_of_its_own() -> None:
    tasks = [Task(0, "a", 7, layer="x"), Task(1, "b", 8)]
    many = varied(tasks, {"lr": [0.1, 0.2], "iterations": [5]})
    assert [(t.index, t.name, t.seed) for t in many] == [(0, "a", 7), (1, "a", 7), (2, "b", 8), (3, "b", 8)]
    assert [(t.layer, t.lr, t.iterations) for t in many[1:3]] == [("x", 0.2, 5), (None, 0.1, 5)]
    assert varied(tasks, {}) == tasks


def test_task_options_vary_within_one_run(tmp_path: Path, few_options: Any, lit_viz: Any, records: Any) -> None:
    out = tmp_path / "sweep"
    sweep(
        [
            "0",
            "3",
            *few_options,
            "--sweep",
            "step_rule.lr=0.05,0.4",
            "--sweep",
            "iterations=4,9",
            "--out",
            str(out),
        ]
    )
    assert [path.name for path in sorted(out.iterdir())] == ["figure.png", "run", "sweep.csv"]
    found = records(out / "run")
    assert [(r["target"], r["seed"], r["iterations"]) for r in found] == [
        (target, seed, k) for target, seed in ((0, 0), (3, 1)) for _ in range(2) for k in (4, 9)
    ]
    table = rows(out)
    assert [(r["image"], r["lr"], r["iterations"]) for r in table[:4]] == [
        ("class 0", lr, k) for lr in ("0.05", "0.4") for k in ("4", "9")
    ]
    assert [float(r["probability"]) for r in table] == [r["probability"] for r in found]
    alone = tmp_path / "alone"
    lit_viz("visualize", "0", *few_options, "--step-rule.lr", "0.4", "--iterations", "9", "--out", str(alone))
    one, same = (np.asarray(Image.open(r / records(r)[n]["file"]), int) for r, n in ((alone, 0), (out / "run", 3)))
    assert abs(one - same).max() <= 2  # arithmetic depends on the batch
    other = np.asarray(Image.open(out / "run" / found[1]["file"]), int)
    assert abs(one - other).max() > 20


def test_other_options_make_runs_below_one_folder_which_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], few_options: Any
) -> None:
    out = tmp_path / "sweep"
    words = ["2", *few_options, "--sweep", "iterations=3,6", "--sweep", "step_rule=SGD,Adam", "--out", str(out)]
    words += ["--sweep", "priors=[],[{class_path: lit_viz.images.TotalVariation, init_args: {weight: 0.01}}]"]
    words += ["--lr", "0.1"]
    sweep(words)
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert [path.name for path in folders] == [
        "00_step_rule_SGD_priors_none",
        "01_step_rule_SGD_priors_TotalVariation_weight_0.01",
        "02_step_rule_Adam_priors_none",
        "03_step_rule_Adam_priors_TotalVariation_weight_0.01",
    ]
    table = rows(out)
    assert [(r["iterations"], r["step_rule"], r["priors"]) for r in table[:2]] == [
        ("3", "SGD", "none"), ("3", "SGD", "TotalVariation weight 0.01"),
    ]  # fmt: skip
    assert len(table) == 8
    assert "step_rule" in capsys.readouterr().out
    with pytest.raises(LitVizError, match=r"already holds a run: .*resume"):
        sweep(words)
    before = (folders[0] / "results.jsonl").read_bytes()
    for path in [*folders[3].rglob("*")][::-1]:
        path.rmdir() if path.is_dir() else path.unlink()
    folders[3].rmdir()
    (out / "sweep.csv").unlink()
    sweep([*words, "--resume"])
    assert (folders[0] / "results.jsonl").read_bytes() == before
    again = rows(out)
    assert again == table


def test_the_count_is_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], few_options: Any) -> None:
    words = ["--sweep", "iterations=4,10", "--sweep", "shown=0.5,1.0", "--out", str(tmp_path / "sweep")]
    sweep(["0", "1", *few_options, "--slots", "4", *words, "--count"])
    assert capsys.readouterr().out.startswith("2 runs, 8 images, 20 steps, 56 evaluations")
    assert not (tmp_path / "sweep").exists()


def test_axes_are_read_as_yaml() -> None:
    axes, out, rest = parse_arguments(["a", "--sweep=lr=0.1,1e-2", "--sweep", "x.y=[1, 2],true", "--out=o", "--count"])
    assert [(axis.option, axis.name, list(axis.values)) for axis in axes] == [
        ("lr", "lr", [0.1, 0.01]), ("x.y", "y", [[1, 2], True]),
    ]  # fmt: skip
    assert (out, rest) == ("o", ["a", "--count"])
    assert label_of([{"class_path": "a.L2", "init_args": {"weight": 2}}, {"class_path": "B"}]) == "L2 weight 2 + B"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--sweep is required: for example --sweep iterations=50,100,200"),
        ("--sweep iterations", "--sweep must be OPTION=VALUES, got 'iterations'"),
        ("--sweep =1,2", "--sweep must be OPTION=VALUES, got '=1,2'"),
        ("--sweep a=[1", "--sweep must be OPTION=VALUES, got 'a=[1'"),
        ("--sweep lr=1,1", "values of --sweep must be distinct, got lr=1,1"),
        ("--sweep", "--sweep requires a value"),
        ("--sweep lr=1 --sweep step-rule.lr=2", "an option must be in one --sweep, got lr twice"),
    ],
)
def test_invalid_sweeps_are_rejected(words: str, message: str) -> None:
    with pytest.raises(LitVizError, match=f"^{re.escape(message)}"):
        parse_arguments(["tarantula", *words.split()])


@pytest.mark.parametrize(
    ("swept", "text"),
    [
        ("size=16,0", "size 0: --size must be at least 1 x 1, got 0 x 0"),
        ("views=1,0", "views 0: --views must be at least 1, got 0"),
        ("shown=1.0,7.0", "shown 7.0: --shown must be in [0.1, 1], got 7.0"),
        ("step_rule=Adam,lit_viz.attacks.FGSM", "lit_viz.attacks.FGSM: --step-rule must be an optimizer"),
        ("objective=Logit,{class_path: lit_viz.objectives.Layer, init_args: {layer: nose}}", "--target requires an"),
    ],
)
def test_all_values_are_validated_before_training(swept: str, text: str, tmp_path: Path, few_options: Any) -> None:
    """All combinations are validated before the first run is trained."""
    with pytest.raises(LitVizError, match=re.escape(text)):
        sweep(["2", *few_options, "--iterations", "3", "--sweep", swept, "--out", str(tmp_path / "sweep")])
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        ('{"seed": [1]}', "of iterations and lr, got seed"),
        ('{"lr": [0]}', "takes positive values"),
        ('{"lr": []}', "takes positive values"),
        ('{"lr": [1, 0.5, 1.0]}', "--vary must have different values"),
        ('{"iterations": [2.5]}', "--vary must have whole numbers of iterations, got [2.5]"),
        ('{"lr": ["x"]}', "vary"),
    ],
)
def test_invalid_varying_options_give_a_one_line_error(
    vary: str,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    few_options: Any,
    lit_viz: Any,
    sentence: Any,
) -> None:
    lit_viz("visualize", "0", *few_options, "--vary", vary, "--out", str(tmp_path / "run"), expect=1)
    assert text in sentence(capsys)
    assert not is_run(tmp_path / "run")


def test_vary_is_rejected_in_a_sweep(tmp_path: Path, few_options: Any) -> None:
    with pytest.raises(LitVizError, match="--vary must not be combined with --sweep"):
        sweep(
            ["0", *few_options, "--sweep", "lr=0.1,0.2", "--vary", '{"iterations": [2]}', "--out", str(tmp_path / "s")]
        )


def test_an_interrupt_gives_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, few_options: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.sweep.execute", interrupted)
    monkeypatch.setattr(
        "sys.argv", ["sweep.py", "0", *few_options, "--sweep", "lr=1,2", "--out", str(tmp_path / "sweep")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "sweep: stopped"
