"""The rows of CONTRIBUTING.md, "Extending lit_viz": a dummy of each kind is added by exactly the files of its row."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dummies import DUMMIES, Dummy, files_of, rows

ROOT = Path(__file__).parents[1]
ROWS = rows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
#: What the copy of the project contains.
COPIED = (
    "lit_viz",
    "tests",
    "scripts",
    "configs",
    "docs",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
#: Files that the commands below the table write, and those of a training.
WRITTEN = (
    "docs/options.md",
    "docs/saliency_details.md",
    "docs/zoo.md",
    "lit_viz/launch/help/",
    "lit_viz/zoo/weights/fashion_dummy.",
    "tests/golden.json",
    "tests/public_api/",
)
#: In place of a training, the weights of another network of the same architecture.
TRAINING = """
from dataclasses import replace
from shutil import copyfile
from lit_viz.zoo import WEIGHTS, read_card, weights_file
from scripts.zoo import write_table

copyfile(weights_file("fashion_cnn"), WEIGHTS / "fashion_dummy.safetensors")
card = replace(read_card("fashion_cnn"), name="fashion_dummy", command="python scripts/zoo.py --only fashion_dummy")
(WEIGHTS / "fashion_dummy.json").write_text(card.to_json(), encoding="utf-8")
write_table(WEIGHTS)
"""
#: Folders and files with tests of each part, of which those of the dummies are run.
OF_EACH_PART = (
    "tests/attacks",
    "tests/attributions",
    "tests/evidence",
    "tests/images",
    "tests/loggers",
    "tests/methods",
    "tests/objectives",
    "tests/optim",
    "tests/outputs",
    "tests/test_golden.py",
    "tests/zoo",
)
#: Tests that compare all parts with each other, or with a page.
CONTRACTS = (
    "tests/callbacks/test_probes.py::test_training_is_unchanged[plain]",
    "tests/callbacks/test_probes.py::test_logs_and_run_folders",
    "tests/launch/test_help.py",
    "tests/launch/test_option_names.py",
    "tests/launch/test_resume.py::test_the_modules_in_recorded_class_paths_do_not_move",
    "tests/loggers/test_json.py",
    "tests/outputs/test_page.py::test_the_page_has_a_block_of_each_output_and_they_are_short",
    "tests/outputs/test_page.py::test_a_block_runs_alone[0]",
    "tests/test_docstrings.py",
    "tests/test_gallery.py",
    "tests/test_golden.py::test_every_part_has_a_case",
    "tests/test_golden.py::test_every_registered_name_has_a_case",
    "tests/test_golden.py::test_every_command_and_record_has_a_case",
    "tests/test_golden.py::test_every_recorded_result_has_a_case",
    "tests/test_help.py",
    "tests/test_layers.py",
    "tests/test_packaging.py",
    "tests/test_public_api.py",
    "tests/test_types.py",
)


def test_there_is_a_dummy_for_each_row() -> None:
    assert [dummy.kind for dummy in DUMMIES] == list(ROWS)


@pytest.mark.parametrize("dummy", DUMMIES, ids=lambda dummy: dummy.kind)
def test_a_dummy_is_added_by_the_files_of_its_row(dummy: Dummy) -> None:
    assert dummy.files == files_of(ROWS[dummy.kind], dummy.name)


def test_a_saliency_method_has_at_most_five_places() -> None:
    assert len(files_of(ROWS["a saliency method"], "x")) <= 5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    if not (ROOT / "lit_viz").is_dir():
        pytest.skip("needs the sources of the package")
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root)
    return root


def python(root: Path, *words: str, **variables: str) -> None:
    """Run Python in a copy of the project, whose package it imports."""
    environment = {**os.environ, **variables, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


def changed_files(root: Path) -> set[str]:
    """Return the files in which a copy differs from the project."""
    changed: set[str] = set()
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and "__pycache__" not in name:
            original = ROOT / name
            if not original.exists() or original.read_bytes() != path.read_bytes():
                changed.add(name)
    return changed


@pytest.mark.slow
def test_the_contract_tests_pass_with_all_dummies(project: Path) -> None:
    named: set[str] = set()
    for dummy in DUMMIES:
        named |= files_of(ROWS[dummy.kind], dummy.name)
        dummy.apply(project)
    pytest_words = ("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider")
    python(project, "-c", TRAINING)
    python(project, "scripts/write_help.py")
    python(project, "-m", "tests.test_public_api")
    python(project, *pytest_words, "tests/test_golden.py", "-k", "dummy or one_list", UPDATE_GOLDEN="1")
    others = {name for name in changed_files(project) - named if not name.startswith(WRITTEN)}
    assert not others
    python(project, *pytest_words, *OF_EACH_PART, "-k", "dummy")
    python(project, *pytest_words, *CONTRACTS)
