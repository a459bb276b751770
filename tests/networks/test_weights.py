from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.networks.weights import fit_keys, read_weights
from lit_viz.outputs import load_network
from tests.support.networks import conv_net


def another() -> nn.Sequential:
    net = conv_net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.25)
    return net


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


class Training(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = another()
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(5))


def lightning_checkpoint(path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(Training())
    trainer.save_checkpoint(path)


WRITERS: dict[str, Any] = {
    "state.pth": lambda path: torch.save(another().state_dict(), path),
    "legacy.pt": lambda path: torch.save(another().state_dict(), path, _use_new_zipfile_serialization=False),
    "nested.pth": lambda path: torch.save({"epoch": 3, "state_dict": another().state_dict()}, path),
    "model.pth": lambda path: torch.save({"model": another().state_dict()}, path),
    "timm.pth.tar": lambda path: torch.save(
        {"args": argparse.Namespace(lr=0.1), "state_dict": another().state_dict()}, path
    ),
    "module.pth": lambda path: torch.save(prefixed("module.", another().state_dict()), path),
    "deep.pth": lambda path: torch.save(prefixed("model._orig_mod.", another().state_dict()), path),
    "state.safetensors": lambda path: save_file(another().state_dict(), path),
    "last.ckpt": lightning_checkpoint,
    "old.pth": lambda path: torch.save(
        {k: v for k, v in another().state_dict().items() if "num_batches" not in k}, path
    ),
    "half.pth": lambda path: torch.save({k: v.double() for k, v in another().state_dict().items()}, path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
def test_every_format_gives_the_weights_that_were_saved(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    network = load_network(f"{__name__}:conv_net", weights=path, size=16)
    loaded, saved = network.original.state_dict(), another().state_dict()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
    assert network.weights == str(path)
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_loaded_into_a_copy_of_a_given_module(tmp_path: Path) -> None:
    torch.save(another().state_dict(), tmp_path / "w.pth")
    net = conv_net()
    network = load_network(net, weights=tmp_path / "w.pth", size=16)
    assert torch.equal(network.original.state_dict()["0.weight"], another()[0].weight)
    assert torch.equal(net[0].weight, conv_net()[0].weight)


def test_a_fine_tuned_network_with_fewer_classes(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(num_classes=7).state_dict(), tmp_path / "seven.pth")
    network = load_network("torchvision/squeezenet1_1", weights=tmp_path / "seven.pth")
    assert network.num_classes == 7
    assert network.labels[6] == "class 6"
    assert network.mean == (0.485, 0.456, 0.406)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def cut(path: Path) -> None:
    torch.save(another().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD: dict[str, tuple[Any, str]] = {
    "missing.pth": (lambda path: None, "doesn't exist"),
    "folder.pth": (lambda path: path.mkdir(), "is a folder"),
    "empty.pth": (lambda path: path.write_bytes(b""), "is empty"),
    "cut.pth": (cut, "is damaged"),
    "text.pth": (lambda path: path.write_text("not weights"), "is damaged or no weights file"),
    "page.safetensors": (lambda path: path.write_text("<html>not found</html>"), "is damaged or no weights file"),
    "evil.pth": (lambda path: torch.save({"state_dict": Evil()}, path), "could run code"),
    "whole.pth": (lambda path: torch.save(another(), path), "could run code"),
    "list.pth": (lambda path: torch.save([1, 2], path), "must contain a state dict, got a list"),
    "numbers.pth": (lambda path: torch.save({"accuracy": 0.5}, path), r"got none \(accuracy\)"),
    "key.pth": (
        lambda path: torch.save({1: torch.ones(2)}, path),
        "must be text, but .* has the key 1:",
    ),
    "some.pth": (
        lambda path: torch.save({"state_dict": {**another().state_dict(), 1: torch.ones(2)}}, path),
        "must be text, but .* has the key 1:",
    ),
    "two.pth": (
        lambda path: torch.save({"weights": another().state_dict(), "ema": another().state_dict()}, path),
        "got several, under weights, ema",
    ),
    "nan.pth": (
        lambda path: torch.save({"0.weight": torch.tensor([float("nan")])}, path),
        "must be finite.*0.weight",
    ),
    "script.pth": (lambda path: torch.jit.save(torch.jit.script(nn.ReLU()), path), "TorchScript"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_rejected_without_running_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, words = BAD[name]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(LitVizError, match=words) as caught:
        read_weights(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_keys_that_do_not_match_are_listed() -> None:
    state = conv_net().state_dict()
    state["head.weight"] = state.pop("8.weight")
    with pytest.raises(LitVizError, match=r"missing in the file: 8.weight; not in the network: head.weight: give"):
        fit_keys(state, conv_net(), "the file")


def test_extra_keys_are_rejected_except_next_to_a_prefix() -> None:
    state = conv_net().state_dict()
    with pytest.raises(LitVizError, match=r"don't match the network; not in the network: extra.weight: give"):
        fit_keys({**state, "extra.weight": torch.zeros(1)}, conv_net(), "the file")
    with_prefix = {**prefixed("net.", state), "extra.weight": torch.zeros(1)}
    assert fit_keys(with_prefix, conv_net(), "the file").keys() == state.keys()


def test_a_wrong_file_lists_only_some_of_many_keys() -> None:
    with pytest.raises(
        LitVizError, match=r"missing in the file: 0.weight, .* and \d+ more; not in the network: a: give"
    ):
        fit_keys({"a": torch.zeros(1)}, conv_net(), "the file")


def test_shapes_that_do_not_match_are_listed(tmp_path: Path) -> None:
    torch.save(conv_net(channels=1).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(LitVizError, match=r"0.weight is \(8, 1, 3, 3\) in the file and \(8, 3, 3, 3\) in the network"):
        load_network(f"{__name__}:conv_net", weights=tmp_path / "grey.pth", size=16)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            lambda tensor: tensor.to("meta"),
            "dense tensors with values, but the given state dict has another kind",
        ),
        (lambda tensor: tensor.to_sparse(), "must be dense tensors with values"),
        (
            lambda tensor: tensor.int(),
            "real floating-point numbers, but the given state dict has torch.int32 in 8",
        ),
        (lambda tensor: tensor.to(torch.complex64), "torch.complex64 in 8.weight"),
    ],
)
def test_other_kinds_of_tensors_are_rejected(kind: Callable[[Tensor], Tensor], words: str) -> None:
    state = conv_net().state_dict()
    with pytest.raises(LitVizError, match=words):
        load_network(conv_net(), weights={**state, "8.weight": kind(state["8.weight"])}, size=16)


def test_two_networks_in_one_file_are_ambiguous() -> None:
    state = conv_net().state_dict()
    twice = {**prefixed("student.", state), **prefixed("teacher.", another().state_dict())}
    with pytest.raises(LitVizError, match=r"several times, under 'student.' and 'teacher.'"):
        fit_keys(twice, conv_net(), "the file")
