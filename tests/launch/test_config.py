"""Configuration files: what is invalid in them is one sentence on the command line."""

from __future__ import annotations

import pytest

from lit_viz.launch.form import Form


@pytest.mark.parametrize("section", ["network", "module", "tasks", "run"])
@pytest.mark.parametrize("value", ["0", "[1]", "text"])
def test_a_section_must_be_a_mapping(tmp_path, capsys, section, value, lit_viz, sentence):
    file = tmp_path / "own.yaml"
    file.write_text(f"{section}: {value}")
    lit_viz("visualize", "tarantula", "--config", str(file), "--count", expect=1)
    assert sentence(capsys).startswith(f"lit-viz: {section} of {file} must be a mapping, got")


@pytest.mark.parametrize("section", ["model", "trainer", "classifier"])
def test_another_section_is_named(tmp_path, capsys, section, lit_viz, sentence):
    file = tmp_path / "own.yaml"
    file.write_text(f"{section}: {{}}")
    lit_viz("visualize", "tarantula", "--config", str(file), "--count", expect=1)
    assert sentence(capsys).startswith(f"lit-viz: {file} has the key {section}")


def test_an_empty_section_has_the_defaults(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("network:\nmodule:\ntasks:\n  init_args: {target: [1]}\nrun:\n")
    form = Form.read(file)
    assert (form.network, form.module, form.run) == ({}, {"init_args": {}}, {})


@pytest.mark.parametrize(
    ("section", "key", "receiver"),
    [
        ("module", "iteration", "ClassVisualization"),
        ("tasks", "targte", "ClassTasks"),
        ("run", "logr", "run"),
        ("network", "siz", "network.siz"),
    ],
)
def test_an_unknown_argument_of_a_section_is_named(
    tmp_path, capsys, section, key, receiver, lit_viz, sentence, small_options
):
    file = tmp_path / "own.yaml"
    arguments = f"{key}: 1" if section in ("run", "network") else f"init_args: {{{key}: 1}}"
    file.write_text(f"{section}:\n  {arguments}\n")
    options = [] if section == "network" else small_options
    lit_viz("visualize", "1", "--config", str(file), "--count", *options, expect=1)
    error = sentence(capsys)
    assert key in error
    assert receiver in error


@pytest.mark.parametrize("option", ["--seed", "--network.size", "--method.sigma", "--vary"])
@pytest.mark.parametrize("value", ["!!bool maybe", "{a: !!timestamp x}", '[!!int ""]', "[1", "{a: 1, a: 2}"])
def test_a_value_that_is_no_valid_yaml_is_one_sentence(capsys, option, value, lit_viz, sentence):
    lit_viz("saliency", "packaged:chelsea", "--method", "smoothgrad", option, value, "--count", expect=1)
    assert sentence(capsys).startswith(f"lit-viz: {option} ")
