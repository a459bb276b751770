"""Messages of the library name arguments; those of the command line name options."""

from __future__ import annotations

from typing import Any

import pytest
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.messages import naming_options, options_named

from lit_viz.errors import LitVizError
from lit_viz.networks.labels import find_class


def named(message: str, command: str | None) -> str:
    with pytest.raises(LitVizError) as error, options_named(None if command is None else COMMANDS[command]):
        raise LitVizError(message)
    return str(error.value)


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("visualize", "iterations must be at least 1, got 0", "--iterations must be at least 1, got 0"),
        ("saliency", "log_at must be iterations", "--log-at must be iterations"),
        ("attack", "lr must be positive", "--lr must be positive"),
        ("saliency", "targets take one class", "--target takes one class"),
        ("visualize", "channels require a layer", "--channel requires a layer"),
        ("visualize", "the size is odd", "the size is odd"),
        ("visualize", "lower size=, or give axis='token'", "lower --size, or give --axis token"),
        ("visualize", "give size= of the network", "give --network.size"),
        (None, "give weights= of the network", "give --network.weights"),
        ("visualize", "separately: targets=['hay', 'brown bear']", "separately: hay 'brown bear'"),
        ("attack", "separately: targets=['hay', 'quail']", "separately: --target hay --target quail"),
        ("visualize", "Channel(layer=['a'], unknown=[1])", "Channel(--layer a, unknown=[1])"),
    ],
)
def test_an_error_names_options(command: str | None, message: str, expected: str) -> None:
    assert named(message, command) == expected
    received: list[str] = []
    naming_options(received.append, None if command is None else COMMANDS[command])(message)
    assert received == [expected]


def test_names_in_one_word_are_given_separately(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    with pytest.raises(LitVizError, match=r"give classes separately: target=\['hay', 'quail'\]$"):
        find_class("hay,quail", ["hay", "quail"])
    lit_viz("saliency", "packaged:chelsea", "--target", "quail,hay", expect=1)
    assert capsys.readouterr().err.endswith("give classes separately: --target quail --target hay\n")


@pytest.mark.parametrize(
    "words", [["layers", "torch.nn:Identity"], ["visualize", "1", "--network", "torch.nn:Identity"]]
)
def test_the_input_size_of_a_network_is_required(
    words: list[str], capsys: pytest.CaptureFixture[str], lit_viz: Any
) -> None:
    lit_viz(*words, expect=1)
    assert "give --network.size in pixels, and --network.mean, --network.std" in capsys.readouterr().err
