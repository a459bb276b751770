"""The help of the methods, and their completion in a shell."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.cli import commands
from lit_viz.commands import SHOWN, command_parser, function_parser, help_text, parse_method
from lit_viz.errors import LitVizError
from lit_viz.launch.methods import METHODS, method_form, read_config
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.utils.yaml_files import config_folder
from tests.support.networks import conv_net

#: Configurations of class images that read a layer of their own network.
_LAYERS = ("channels", "deepdream", "diversity")


def options(text: str) -> list[str]:
    """Return the first spelling of each option in a help."""
    return re.findall(r"^  (--[\w.-]+)", text, re.MULTILINE)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.mark.parametrize("method", METHODS)
def test_the_help_shows_the_options_of_most_runs(method: str) -> None:
    text = help_text(method)
    assert max(map(len, text.splitlines())) <= 100
    assert 25 <= len(options(text)) <= 33
    assert text.endswith(f"All options: lit-viz {method} --help-all\n")
    every = options(help_text(method, every=True))
    assert set(options(text)) < set(every)
    assert len(every) == len(set(every))


@pytest.mark.parametrize("method", METHODS)
def test_the_help_names_existing_options(method: str) -> None:
    known = {word for option in command_parser(method).entries.values() for word in option.words}
    assert set(re.findall(r"--[\w.-]*\w", help_text(method))) - {"--help-all"} <= known


def test_every_shown_name_is_an_option() -> None:
    known: set[str] = set()
    for method, part in (("visualize", ()), ("saliency", ()), ("attack", ()), ("attack", ("--attack", "pgd"))):
        known |= command_parser(method, part).entries.keys()
    assert known >= SHOWN


@pytest.mark.parametrize("name", commands())
def test_the_example_is_parsed(name: str) -> None:
    (example,) = re.findall(r"^Example: lit-viz (.*?)(?:\n\n|\Z)", help_text(name), re.MULTILINE | re.DOTALL)
    command, *words = shlex.split(example.partition(" > ")[0])
    assert command == name
    values = parse_method(METHODS[name], words) if name in METHODS else function_parser(name).values(words)
    assert values


@pytest.mark.parametrize("method", METHODS)
def test_the_help_has_the_defaults_of_the_configuration(method: str) -> None:
    text = " ".join(help_text(method).split())
    form = read_config(METHODS[method], None)
    for name in ("iterations", "views", "slots"):
        if name in form.module["init_args"]:
            assert re.search(rf"--{name} \w+ [^\[]*\[{form.module['init_args'][name]}\]", text), name
    assert f"Default: runs/{method}/<time>_" in text


def test_the_defaults_are_those_of_the_given_configuration() -> None:
    text = " ".join(help_text("visualize", ["--config", "vit"]).split())
    assert "Default: the configuration's. [400]" in text
    assert "[timm/vit_base_patch16_224]" not in text  # the network is a section of its own


def test_the_options_of_a_part_follow_its_name() -> None:
    assert "--norm" in options(help_text("attack", ["--attack", "pgd"]))
    assert "--norm" not in options(help_text("attack"))
    assert "--sigma" in options(help_text("saliency", ["--method", "smoothgrad"], every=True))


def test_the_help_names_all_methods_attacks_and_configurations() -> None:
    assert {*ATTRIBUTIONS} <= set(re.findall(r"\w+", help_text("saliency")))
    assert {*ATTACKS} <= set(re.findall(r"\w+", help_text("attack")))
    for method in METHODS:
        words = set(re.findall(r"\w+", help_text(method)))
        assert {path.stem for path in (config_folder() / method).glob("*.yaml")} <= words


def test_resume_offers_no_options_of_a_new_run() -> None:
    assert not {"--out", "--overwrite", "--resume", "--config"} & set(options(help_text("resume")))
    assert function_parser("resume").values(["runs/x", "--out", "y"]) == {"folder": "runs/x", "out": "y"}


def test_no_description_refers_to_another_function() -> None:
    for name in commands():
        assert not re.search(r"(?<!, )as in saliency|:class:|:func:|``", help_text(name, every=True)), name


def test_options_of_several_methods_have_dotted_names() -> None:
    words = ["x.png", "--method", "smoothgrad,rise,occlusion", "--method.smoothgrad.sigma", "0.3"]
    values = parse_method(
        METHODS["saliency"], [*words, "--method.occlusion.window", "8", "--method.occlusion.stride=4"]
    )
    form = method_form(METHODS["saliency"], values)
    arguments = [part["init_args"] for part in form.module["init_args"]["method"]]
    assert arguments == [{"sigma": 0.3}, {}, {"window": 8, "stride": 4}]
    with pytest.raises(LitVizError, match=r"--method.rise.sigma"):
        parse_method(METHODS["saliency"], [*words, "--method.rise.sigma", "0.3"])


PACKAGED = [(method, path.stem) for method in METHODS for path in sorted((config_folder() / method).glob("*.yaml"))]


@pytest.fixture(scope="module")
def small() -> Network:
    """A small network of modules that every method can read, but attention."""
    return load_network(conv_net(), size=32, mean=0.5, std=0.25)


@pytest.mark.parametrize(("method", "config"), PACKAGED)
def test_every_packaged_configuration_is_parsed_and_built(method: str, config: str, small: Network) -> None:
    command = METHODS[method]
    words = ["--config", config]
    if method == "visualize" and config in _LAYERS:
        words += ["--layer", "3", *([] if config == "deepdream" else ["--channel", "1"])]
    elif (method == "visualize" and config != "vit") or method == "attack":
        words += ["--target", "1"]
    form = method_form(command, parse_method(command, words))
    if config == "vit":  # whose layers and methods require tokens
        assert form.module_class
        assert form.tasks_class
        return
    module, tasks = form.build(small)
    assert type(module) is form.module_class
    assert tasks.tasks
    assert form.options().out is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["resu"], ["resume"]),
        (["visualize", "--log-"], ["--log-at"]),
        (["saliency", "--overl"], ["--overlap", "--overlays"]),
        (["attack", "--ep"], ["--eps"]),
        (["attack", "--attack", "pg"], ["pgd"]),
        (["saliency", "--method", "smoothgrad_"], ["smoothgrad_squared"]),
        (["visualize", "--network", "zoo/fashion_c"], ["zoo/fashion_cnn"]),
        (["visualize", "--config", "deepi"], ["deepinversion"]),
        (["saliency", "--captum", "n"], ["none"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    words: list[str], expected: list[str], script: Path, tmp_path: Path
) -> None:
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
    assert "shell must be one of bash, zsh, tcsh" in sentence(capsys)
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    lit_viz("completion", "bash", expect=1)
    assert sentence(capsys).endswith(": pip install 'lit-viz[completion]'")


def test_no_help_speaks_python() -> None:
    """What follows ``In Python`` in a docstring is not in the help of an option."""
    texts = sorted((Path(__file__).parents[2] / "lit_viz" / "launch" / "help").glob("*.txt"))
    assert len(texts) > 10
    for path in texts:
        words = re.findall(
            r"Pillow|[Ii]nstances?\b|\bNone\b|\btensors?\b|In Python|LogSchedule|ATTRIBUTIONS|ATTACKS|OUTPUTS",
            path.read_text(),
        )
        assert not words, path.name
