"""The help of the methods, and their completion in a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lit_viz.launch.arguments import rewrite_arguments
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.commands.usage import USAGES
from lit_viz.launch.config import ConfiguredMethod, build_parser, config_folder, with_config

from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS

#: Values of options that are names of parts; all others are parsed later.
_VALUES = {"--attack": "pgd", "--method": "rise"}
_FLAGS = ("--overwrite", "--resume", "--count", "--print_config")


def options(method: str) -> list[str]:
    return re.findall(r"^  (--[\w.-]+)", USAGES[method], re.MULTILINE)


@pytest.mark.parametrize("method", SUMMARIES)
def test_the_help_fits_a_screen(method: str) -> None:
    lines = USAGES[method].splitlines()
    assert max(map(len, lines)) <= 79
    assert len(lines) <= 75
    assert 25 <= len(options(method)) <= 35


@pytest.mark.parametrize("method", SUMMARIES)
def test_the_help_names_existing_options(method: str) -> None:
    command, parser = COMMANDS[method], build_parser(type(COMMANDS[method]))
    known = {*parser._option_string_actions, "--target"}
    for option in options(method):
        words = [option, _VALUES.get(option, "1")]
        if option in (*_FLAGS, *command.flags):
            words = [option]
        name = rewrite_arguments(words, command)[0]
        is_of_part = re.match(r"--model\.(attack|method|step_rule|objective)\.", name)
        assert name in known or is_of_part, option


@pytest.mark.parametrize("method", SUMMARIES)
def test_the_help_has_the_defaults_of_the_configuration(method: str) -> None:
    command = COMMANDS[method]
    config = ConfiguredMethod(command, with_config(command, [])).config
    rates = {"visualize": "model.step_rule.init_args.lr", "attack": "model.attack.init_args.lr"}
    for option, default in re.findall(r"^  --([\w.-]+).*?\[([\w.:]+)\]", USAGES[method], re.MULTILINE):
        key = rates[method] if option == "lr" else option.replace("-", "_")
        key = {"views": "model.views", "devices": "trainer.devices"}.get(key, key)
        assert str(config[key]) == default, option


def test_the_help_names_all_methods_attacks_and_configurations() -> None:
    assert {*ATTRIBUTIONS} <= set(re.findall(r"[\w]+", USAGES["saliency"]))
    assert {*ATTACKS} <= set(re.findall(r"[\w]+", USAGES["attack"]))
    for method in SUMMARIES:
        (names,) = re.findall(r"^  --config NAME(.*?)^  --", USAGES[method], re.MULTILINE | re.DOTALL)
        assert {path.stem for path in (config_folder() / method).glob("*.yaml")} <= set(re.findall(r"\w+", names))


def test_help_all_lists_the_parts_of_the_method(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    """It offered attacks and saliency methods as step rules of class images, and defaults as Namespace(...)."""
    lit_viz("visualize", "--help-all")
    message = " ".join(capsys.readouterr().out.split())
    assert "default: Adam(lr=0.05, betas=[0.9, 0.999], eps=1e-08)" in message
    assert "classes: GradientAscent, NormalizedAscent, Adapted, Adam, NAdam, SGD, RMSprop)" in message
    assert "default: [RandomCrop(low=0.4, high=1.0, shrink=1.0), Shear(amount=0.2)" in message
    assert "Namespace" not in message
    assert "default config file" not in message
    assert "updates per image; evaluations per map (type: int | null, default: 228)" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["resu"], ["resume"]),
        (["visualize", "--log"], ["--log-at", "--logger"]),
        (["attack", "--attack", "dd"], ["ddn"]),
        (["saliency", "--over"], ["--overlays", "--overwrite"]),
        (["attack", "--ep"], ["--eps"]),
        (["check", "ru"], ["runs"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    words: list[str], expected: list[str], script: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    arguments = " ".join(f"'{word}'" for word in ["lit-viz", *words])
    code = f"source {script}; COMP_WORDS=({arguments}); COMP_CWORD={len(words)}; _shtab_lit_viz; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert sorted(done.stdout.split()) == expected


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory, lit_viz: Any) -> Path:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion") / "lit-viz"
    with path.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        lit_viz("completion", "bash")
    return path


def test_completion_names_the_shells_and_the_missing_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lit_viz: Any, sentence: Any
) -> None:
    pytest.importorskip("shtab")
    lit_viz("completion", "cmd", expect=1)
    assert "the shell must be one of bash, zsh, tcsh" in sentence(capsys)
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    lit_viz("completion", "bash", expect=1)
    assert sentence(capsys) == "lit-viz: completion requires shtab: pip install shtab"
