"""Errors of a command line before torch is imported, as the parser and the parts report them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lit_viz as lv
from lit_viz.commands import command_parser
from lit_viz.errors import LitVizError
from lit_viz.launch.early import check_words, options_of
from lit_viz.launch.form import find_config
from lit_viz.networks.loading import as_network
from lit_viz.utils.labels import find_class, imagenet_labels
from lit_viz.utils.zoo_names import zoo_labels
from lit_viz.zoo import NAMES, labels_of

HAY = "packaged:chelsea"

#: Words with an error, and a part of its message.
WRONG: dict[str, tuple[list[str], str]] = {
    "file": (["saliency", "hay.jpg", "--target", "hay"], "there is no photograph or folder 'hay.jpg'"),
    "file of an attack": (["attack", "--images=hay.jpg"], "there is no photograph or folder 'hay.jpg'"),
    "option": (["saliency", HAY, "--metod", "gradient"], "unrecognized option --metod; did you mean --method?"),
    "plural": (["saliency", "--methods"], "unrecognized option --methods; did you mean --method?"),
    "name of another tool": (["attack", HAY, "--epsilon", "1"], "--epsilon is not available: use --eps"),
    "option of a part": (["saliency", HAY, "--method.smoothgrad.sigmo", "1"], "--method.smoothgrad.sigma"),
    "method": (["saliency", HAY, "--method", "gradiant"], "there is no method 'gradiant'; did you mean 'gradient'"),
    "second method": (["saliency", HAY, "--method", "rise,gradiant"], "there is no method 'gradiant'"),
    "attack": (["attack", HAY, "--attack", "pdg"], "there is no attack 'pdg'; did you mean 'pgd'?"),
    "configuration": (["visualize", "hay", "--config", "tarantla"], "there is no configuration tarantla; did you mean"),
    "class": (["visualize", "tarantulla"], "unknown class 'tarantulla'; did you mean 'tarantula'?"),
    "target": (["saliency", HAY, "--target", "tarantulla"], "unknown class 'tarantulla'"),
    "ambiguous class": (["visualize", "crane"], "class 'crane' is ambiguous"),
    "resumed folder": (["resume", "runs/foo"], "runs/foo is not a lit_viz run"),
    "checked folder": (["check", "runs/foo", "--trust"], "runs/foo is not a lit_viz run"),
    "option like no other": (["attack", HAY, "--foo", "3"], "unrecognized option --foo: see lit-viz attack --help"),
    "attack like no other": (["attack", HAY, "--attack", "foo"], "there is no attack 'foo': choose one of"),
    "packaged photograph": (["saliency", "packaged:chelse"], "no packaged photograph is called 'chelse'; did you mean"),
    "word of few": (["saliency", HAY, "--only", "eror"], "--only must be errors, got 'eror'"),
    "words of several": (["saliency", HAY, "--fit", "crob"], "got 'crob'; did you mean 'crop'?"),
    "folder of shards": (["status", "shards"], "there is no folder 'shards'"),
    "required option": (["merge", "shards"], "lit-viz merge requires --out"),
    "network of the zoo": (["layers", "--network", "zoo/fashion_cn"], "the zoo has no network 'fashion_cn'; did you"),
    "class of the zoo": (
        ["visualize", "hay", "--network", "zoo/fashion_cnn"],
        "unknown class 'hay': the classes are T-",
    ),
    "class of torchvision": (["visualize", "goldfsh", "--network", "torchvision/vgg16"], "unknown class 'goldfsh'"),
    "weights": (
        ["saliency", HAY, "--network.weights", "hay.pth"],
        "weights file 'hay.pth' doesn't exist: give the path",
    ),
    "file of a configuration": (["saliency", HAY, "--config", "hay.yaml"], "there is no configuration hay.yaml"),
    "file as a folder": (["visualize", "hay", "--out", "file"], "file is a file: give a folder for the run"),
}

#: Words without an error that can be found early.
RIGHT = {
    "own method": ["saliency", HAY, "--method", "package.module.Own", "--method.weight", "3"],
    "own configuration": ["saliency", HAY, "--config", "file.yaml", "--weight", "3"],
    "own network": ["visualize", "pothole", "--network", "package.module:build"],
    "network of the zoo": ["visualize", "ankle_boot", "--network", "zoo/fashion_cnn"],
    "labels of folders": ["attack", HAY, "--label", "folders"],
    "random weights": ["visualize", "hay", "--network.weights", "none"],
    "labels": ["visualize", "pothole", "--network.labels", "names.txt"],
    "several words": ["visualize", "hay", "--vary.lr", "1", "2", "--iterations", "8"],
    "negative values": ["saliency", HAY, "--network.value-range", "-1,1"],
    "underscores": ["saliency", HAY, "--log_at", "last", "--print_config"],
    "flag": ["saliency", HAY, "--no-overwrite"],
    "against": ["saliency", HAY, "--against", "runner-up"],
    "table of targets": ["saliency", HAY, "--target", "targets.csv"],
    "classes": ["visualize", "hay,tarantula"],
    "option of the run": ["resume", ".", "--step-rule.own.weight", "3"],
    "layer": ["visualize", "--layer", "blocks.3.2", "--channel", "3"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("config.yaml").write_text("")
    Path("file.yaml").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_found(name: str) -> None:
    (command, *words), message = WRONG[name]
    with pytest.raises(LitVizError) as raised:
        check_words(command, words)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", RIGHT)
def test_other_words_are_left_to_the_parser(name: str) -> None:
    command, *words = RIGHT[name]
    check_words(command, words)


@pytest.mark.parametrize("name", ["option", "plural", "name of another tool"])
def test_the_parser_reports_an_option_as_the_table_does(name: str) -> None:
    (command, *words), _ = WRONG[name]
    with pytest.raises(LitVizError) as early:
        check_words(command, words)
    with pytest.raises(LitVizError) as late:
        command_parser(command, words).values(words)
    assert str(early.value) == str(late.value)


def test_names_and_files_have_the_same_message_later() -> None:
    late: dict[str, Any] = {
        "configuration": lambda: find_config("visualize", "tarantla"),
        "class": lambda: find_class("tarantulla", imagenet_labels()),
        "file of a configuration": lambda: find_config("saliency", "hay.yaml"),
        "network of the zoo": lambda: as_network("zoo/fashion_cn"),
        "class of the zoo": lambda: find_class("hay", as_network("zoo/fashion_cnn").labels),
        "weights": lambda: lv.load_network("zoo/fashion_cnn", weights="hay.pth"),
    }
    for name, find in late.items():
        (command, *words), _ = WRONG[name]
        with pytest.raises(LitVizError) as early:
            check_words(command, words)
        with pytest.raises(LitVizError) as found:
            find()
        assert str(early.value) == str(found.value)


def test_torch_is_not_imported() -> None:
    """In one process, all wrong words."""
    code = (
        "import json, sys\n"
        "from lit_viz.cli import check_words\n"
        "from lit_viz.errors import LitVizError\n"
        "for command, *words in json.loads(sys.argv[1]):\n"
        "    try: check_words(command, words)\n"
        "    except LitVizError: continue\n"
        "    print('no error:', command, *words)\n"
        "print({'torch', 'torchvision', 'numpy', 'timm'} & set(sys.modules))"
    )
    cases = json.dumps([words for words, _ in WRONG.values()])
    done = subprocess.run([sys.executable, "-c", code, cases], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_table_has_the_options_of_parts() -> None:
    options = options_of("saliency")
    assert options["--method.smoothgrad.sigma"].name == "method.smoothgrad.sigma"
    assert {"--out", "--network.value-range", "--trainer.devices"} <= set(options)
    assert "smoothgrad" in options["--method"].names


def test_imagenet_has_the_names_of_torchvision() -> None:
    from torchvision.models import ResNet18_Weights

    assert imagenet_labels() == tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    assert as_network("efficientnet_lite0").labels == imagenet_labels()


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_the_zoo_are_known(name: str) -> None:
    assert zoo_labels(name) == labels_of(name)
