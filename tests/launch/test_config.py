"""Configuration files: what is invalid in them is one sentence on the command line."""

from __future__ import annotations

import pytest

from lit_viz.cli import main


@pytest.mark.parametrize("section", ["network", "model", "trainer", "recorded"])
@pytest.mark.parametrize("value", ["0", "[1]", "null"])
def test_a_section_must_be_a_mapping(tmp_path, capsys, section, value):
    file = tmp_path / "own.yaml"
    file.write_text(f"{section}: {value}")
    with pytest.raises(SystemExit) as end:
        main(["visualize", "tarantula", "--config", str(file), "--count"])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"lit-viz: {section} in {file} must be a mapping of options, got")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--seed", "--network.size", "--model.method.smoothgrad.sigma"])
@pytest.mark.parametrize("value", ["!!bool maybe", "!!timestamp x", '!!int ""'])
def test_an_option_must_be_of_its_yaml_tag(capsys, option, value):
    with pytest.raises(SystemExit) as end:
        main(["saliency", "packaged:chelsea", "--method", "smoothgrad", option, value, "--count"])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"lit-viz: {option} can't be read (line 1: ")
    assert error.count("\n") == 1
