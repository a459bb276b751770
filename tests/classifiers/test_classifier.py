from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_viz.classifiers import Classifier, FrozenNetwork, layer_names, load_classifier
from lit_viz.errors import LitVizError
from tests.support.networks import Lockable, conv_net, smooth_network


def test_the_fast_copy_is_made_once_and_again_when_the_weights_change() -> None:
    net = conv_net()
    classifier = load_classifier(net, size=16)
    first = classifier.fast()
    x = torch.rand(1, 3, 16, 16)
    assert classifier.fast() is first
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(x).sum().backward()
    optimizer.step()
    again = classifier.fast()
    assert again is not first
    assert classifier.fast(keep=["1"]) is not again
    assert classifier.fast() is again
    assert classifier.fast(dtype=torch.float64) is not again
    assert torch.allclose(again(x)[0], classifier.logits(x), atol=1e-4)
    assert len(classifier._copies) == 3  # copies of weights that are gone are dropped


def test_any_fast_copy_is_one_that_exists() -> None:
    net = conv_net()
    classifier = load_classifier(net, size=16)
    classifier.fast(backprop="guided")
    classifier.fast(dtype=torch.float16)
    kept = classifier.fast(keep=["1"])
    assert classifier.any_fast() is kept
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert classifier.any_fast() is classifier.fast()


def test_a_call_gives_differentiable_logits_of_the_original() -> None:
    net = conv_net().train()
    classifier = load_classifier(net, mean=0.5, std=0.25, size=16)
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    expected = net.eval()((x - 0.5) / 0.25)
    net.train()
    logits = classifier(x)
    assert torch.allclose(logits, expected, atol=1e-5)
    gradients = [torch.autograd.grad(value[:, 1].sum(), x)[0] for value in (logits, expected)]
    assert torch.allclose(*gradients, atol=1e-5)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    with pytest.raises(LitVizError, match=r"takes floating-point images in \[0, 1\], got torch.uint8"):
        classifier(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(LitVizError, match=r"takes images \(N, 3, H, W\) as a tensor, got shape \(3, 16, 16\)"):
        classifier(x[0])


class _Tempered(torch.nn.Module):
    """Logits over a temperature, which is a plain attribute, plus a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.temperature = conv_net(), 1.0
        self.register_buffer("shift", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) / self.temperature + self.shift


def _hook(net: _Tempered) -> None:
    net.layers.register_forward_hook(lambda _, __, logits: -logits)


def _temper(net: _Tempered) -> None:
    net.temperature = 0.5


def _shift(net: _Tempered) -> None:
    net.shift.data += 1


def _forward(net: _Tempered) -> None:
    net.forward = lambda x: net.layers(x.flip(3))  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [_hook, _temper, _shift, _forward])
def test_refresh_discards_copies_of_a_changed_network(change: Callable[[_Tempered], None]) -> None:
    net = _Tempered()
    classifier = load_classifier(net, size=16)
    classifier.refresh()
    first = classifier.fast()
    classifier.refresh()
    assert classifier.fast() is first
    change(net)
    classifier.refresh()
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier.fast()(x)[0], classifier.logits(x), atol=1e-4, rtol=1e-4)


def test_a_network_that_casts_is_used_as_it_is() -> None:
    class Casting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(3 * 16 * 16, 4).double())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double() @ self.weight

    classifier = load_classifier(Casting(), size=16)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier.fast()(x)[0].float(), classifier.logits(x))
    assert any("used as it is" in note and "float32" in note for note in classifier.notes)


def test_notes_about_copies_are_those_of_the_current_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(classifier: Classifier, dtype: torch.dtype, **_: Any) -> FrozenNetwork:
        return FrozenNetwork(classifier.original, classifier.mean, classifier.std, notes=[f"copied in {dtype}"])

    monkeypatch.setattr("lit_viz.classifiers.classifier.fast_copy", copied)
    classifier = load_classifier(conv_net(), size=16)
    own = classifier.notes
    classifier.fast()
    classifier.fast(dtype=torch.float64)
    assert classifier.notes == (*own, "copied in torch.float32", "copied in torch.float64")
    classifier.refresh()
    assert classifier.notes == own
    classifier.fast()  # cached
    assert classifier.notes == (*own, "copied in torch.float32")


def test_attributes() -> None:
    classifier = load_classifier(conv_net(channels=1), size=(16, 20), labels=list("abcde"), mean=0.5, std=[0.25])
    assert (classifier.channels, classifier.size, classifier.num_classes) == (1, (16, 20), 5)
    assert (classifier.mean, classifier.std) == ((0.5,), (0.25,))
    assert (classifier.name, classifier.weights, classifier.sha256) == ("Sequential", "given", None)
    assert classifier.index_of("C") == 2
    assert repr(classifier) == "Classifier('Sequential', 1 x 16 x 20, 5 classes, weights='given')"


def test_images_of_a_wrong_shape_are_rejected() -> None:
    classifier = load_classifier(conv_net(), size=16)
    for shape in ((1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(LitVizError, match=r"takes images \(N, 3, H, W\) as a tensor, got shape"):
            classifier.logits(torch.rand(shape))


def test_layer_names_exclude_containers() -> None:
    net = conv_net()
    net[0].extra = torch.nn.ModuleList([torch.nn.ReLU()])
    names = layer_names(load_classifier(Lockable(net), size=16).original)
    assert names[:4] == ("inner", "inner.0", "inner.0.extra.0", "inner.1")
    assert names == layer_names(Lockable(net))


def test_layers_of_the_network_are_attributes() -> None:
    network = smooth_network()
    classifier = load_classifier(network, size=16)
    assert classifier.features is network.features
    assert copy.copy(classifier).head is network.head
    for name in ("heads", "training", "original_"):
        with pytest.raises(AttributeError, match=f"'Classifier' object has no attribute '{name}'"):
            getattr(classifier, name)
