"""Scripts: the comparison of recipes, versions of the requirements, a short version of the reliability campaign."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

import lit_viz as lv
import scripts.recipes as recipes
from lit_viz.launch.methods import method_form
from lit_viz.networks import Network
from lit_viz.types import Record
from scripts.captioner import COLORS, UNSEEN, drawing, verdict
from scripts.recipes import COMMAND, Made, main, planned, spread
from tests.support.scripts import run_script

OWN = "tests.support.networks:smooth_network"


@pytest.fixture(scope="session")
def few_options(small_options: list[str]) -> list[str]:
    return [*small_options, "--views", "1", "--iterations", "2"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, smooth: Network) -> list[str]:
    """Let a small network be the judges, once by the name of the recipe's own; return the words that name them."""
    monkeypatch.setattr(recipes, "load_network", lambda name, weights: smooth)
    return ["--judges", "other", OWN]


def test_the_spread_is_the_mean_over_pairs() -> None:
    features = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    within, between = spread(features, 2)

    def apart(pairs: Any) -> float:
        found = [1 - float(cosine_similarity(features[a], features[b], 0)) for a, b in pairs]
        return sum(found) / len(found)

    assert within == pytest.approx([apart([(2 * n, 2 * n + 1)]) for n in range(3)])
    others = [(a, b) for c, d in combinations(range(3), 2) for a, b in product((2 * c, 2 * c + 1), (2 * d, 2 * d + 1))]
    assert between == pytest.approx(apart(others))


def test_a_line_has_counts_with_intervals_and_margins() -> None:
    made_records = [Record(index=0, name="x", seconds=float(s)) for s in (1, 2)] * 5
    made = Made("x", Path(), made_records, {"a": torch.tensor([1.0] * 8 + [-4.0] * 2)})
    # Wilson's interval of 8 of 10 is 49.0 to 94.3 % (Newcombe 1998).
    assert made.row(["a", "own"]) == ["x", "1.5", "8 of 10 (49-94 %)", "+0.0", "its own network", "-"]


def test_recipes_are_compared_on_the_same_classes_and_not_made_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    judged: list[str],
    smooth: Network,
    few_options: Any,
    records: Any,
) -> None:
    words = [
        "--recipes",
        f"small,{Path('configs/visualize/plain_fourier.yaml').absolute()}",
        "--classes",
        "3",
        "--seed",
        "4",
        "--out",
        str(tmp_path),
        *judged,
        *few_options,
    ]
    main(words)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    head, _, *lines = [line.strip("|").split("|") for line in table.splitlines()]
    assert [len(line) for line in (head, *lines)] == [6, 6, 6]
    first, second = (records(tmp_path / name) for name in ("small", "plain_fourier"))
    assert [r["target"] for r in first] == [r["target"] for r in second]
    assert len({r["target"] for r in first}) == 3
    # The judge is the network itself here, so that the records know what it has to say.
    assert lines[0][2].strip().startswith(f"{sum(r['rank'] == 1 for r in first)} of 3 ")
    assert lines[0][4].strip() == "its own network"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height
    before = (tmp_path / "small" / "results.jsonl").stat().st_mtime_ns
    main(words)
    assert (tmp_path / "small" / "results.jsonl").stat().st_mtime_ns == before
    assert (tmp_path / "table.md").read_text() == table


def test_seeds_give_different_pictures_of_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged: list[str], few_options: Any, records: Any
) -> None:
    main(["--recipes", "small", "--classes", "2", "--seeds", "3", "--out", str(tmp_path), *judged, *few_options])
    found = records(tmp_path / "small_seeds")
    assert [r["target"] for r in found] == [t for t in dict.fromkeys(r["target"] for r in found) for _ in range(3)]
    assert len({r["seed"] for r in found}) == 6
    assert "within a class" in capsys.readouterr().out
    assert (tmp_path / "small_seeds.png").exists()


def test_the_count_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged: list[str], few_options: Any
) -> None:
    out = tmp_path / "out"
    main(["--recipes", "small", "--classes", "2", "--seeds", "2", "--count", "--out", str(out), *judged, *few_options])
    assert capsys.readouterr().out.startswith("small: 4 images, 2 steps, 8 evaluations")
    assert not out.exists()


def test_a_judges_weights_are_those_of_its_own_recipe(tmp_path: Path) -> None:
    options = Namespace(
        out=tmp_path, seeds=0, seed=0, rest=[], judges=["torchvision/squeezenet1_0=s.pth", "other=o.pth"]
    )
    weights = {}
    for recipe in ("simonyan_squeezenet", "tarantula"):
        section = method_form(COMMAND, planned(recipe, [1], options)).network
        weights[recipe] = section.get("weights", "DEFAULT")
    assert weights == {"simonyan_squeezenet": "s.pth", "tarantula": "DEFAULT"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--classes 0", "--classes must be between 1 and 5, got 0"),
        ("--classes 6", "--classes must be between 1 and 5, got 6"),
        ("--classes 1 --seeds 2", "--classes must be between 2 and 5, got 1"),
        ("--seeds 1", "--seeds must be at least 2, got 1"),
        ("--seeds -1", "--seeds must be at least 2, got -1"),
    ],
)
def test_invalid_counts_are_rejected(
    words: str, message: str, tmp_path: Path, judged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--recipes", "small", *judged, "--out", str(tmp_path / "out"), *words.split()])
    assert capsys.readouterr().err == f"recipes: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_judges_evaluate_the_images_of_a_group_separately(tmp_path: Path) -> None:
    run = lv.visualize(
        lv.load_network("zoo/fashion_cnn"), [1], config="small", iterations=6, views=2, group=2, out=tmp_path / "run",
        wandb="disabled",
    )  # fmt: skip
    record, printed = run.records[0], run_script("judge.py", tmp_path / "run", "zoo/fashion_cnn")
    assert f"{record['probability']:.2f} ({record['rank']})" in printed
    message = run_script("judge.py", tmp_path / "run", "zoo/planted_cnn", expect=1)
    assert message.startswith("judge: unknown class 'trouser': the classes are ")


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs a copy of scripts/versions.py with parts of tests of which each prints its result."""
    folder = tmp_path / "build" / "versions" / "lowest" / "bin"
    results = {
        "tests/a/test_x.py": "3 failed, 12 passed, 1 skipped, 4 deselected, 1 error in 9.1s",
        "tests/b/c/test_y.py": "4 deselected in 0.2s",
        "tests/test_z.py": "8 passed, 2 skipped in 1s",
        "tests/support/x.py": "",
    }
    for name, text in results.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    folder.mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copy("scripts/versions.py", tmp_path / "scripts")
    # pytest: exit status 5 if all are deselected, 9 if there is no such part
    python = 'for part; do :; done; text=$(find "$part" -name "test_*.py" -exec cat {} +) || exit 9; echo "$text"\n'
    python += "case $text in 4*) exit 5;; *failed*) exit 1;; esac\n"
    for path, text in ((folder / "python", python), (folder / "uv", "echo '[]'\n")):
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def run(*parts: str, expect: int) -> str:
        command = [sys.executable, tmp_path / "scripts" / "versions.py", "lowest", *parts, "--go-on"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stderr
        return done.stdout.splitlines()[-1]

    return run


def test_results_of_several_calls_are_added_up(versions: Callable[..., str], tmp_path: Path) -> None:
    first = versions("tests/a", expect=1)
    assert first == "12 passed, 1 skipped, 3 failed, 1 errors (tests/a); not run: tests/b, tests/test_z.py"
    assert versions(expect=1) == "20 passed, 3 skipped, 3 failed, 1 errors (tests/a)"
    (tmp_path / "tests/a/test_x.py").write_text("4 passed in 1s")
    assert versions("tests/a", expect=0) == "12 passed, 2 skipped"
    assert versions("tests/none", expect=1) == "12 passed, 2 skipped, 1 errors (tests/none)"


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["kill", "signal", "limit", "damage", "hostile", "creation", "starts", "changed"])
def test_a_disturbed_run_survives(trial: str) -> None:
    assert f"| {trial} | 1 | 1 |" in run_script("soak.py", "--cases", "adam", "--trials", trial)


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["edits", "crafted"])
def test_edited_and_crafted_folders_are_refused_or_mended(trial: str) -> None:
    assert f"| {trial} | 12 | 12 |" in run_script("soak.py", "--trials", trial, "--most", 12)


# -- drawings of scripts/captioner.py


@pytest.mark.parametrize("seed", [0, 1, 2, UNSEEN, UNSEEN + 70])
def test_a_word_names_the_shape_that_is_at_its_place(seed: int) -> None:  # those of the last one overlap
    made = drawing(seed)
    assert torch.equal(made.image, drawing(seed).image)
    words = made.caption.split()
    assert words[0] == words[4] == "a"
    assert words[3] == "and"
    assert [word for word in range(9) if made.place_of(word) is not None] == [1, 2, 5, 6]
    centers: list[float] = []
    for color in (1, 5):
        place, other = made.place_of(color), made.place_of(color + 1)
        assert place is not None
        assert np.array_equal(place, other)
        mean = made.image[:, torch.from_numpy(place)].mean(1)
        nearest = min(COLORS, key=lambda name: float((mean - torch.tensor(COLORS[name])).abs().sum()))
        assert nearest == words[color]
        centers.append(float(np.nonzero(place)[1].mean()))
    assert centers[0] < centers[1]  # the left shape is the first
    assert not (made.places[0] & made.places[1]).any()


def test_the_verdict_counts_maps_by_the_places_of_their_words() -> None:
    made = drawing(0)
    own, other = made.places
    judged = verdict([made], [(0, 0), (0, 1), (0, 2), (0, 5)], [own, own, other, other])  # the first word has no place
    assert judged.maps == 3
    assert judged.maximum_inside == pytest.approx(2 / 3)
    assert judged.own_mass == judged.more_in_own == pytest.approx(2 / 3)
    assert judged.other_mass == pytest.approx(1 / 3)
    assert judged.area == pytest.approx(np.mean([own.mean(), own.mean(), other.mean()]))
