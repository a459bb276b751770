"""Unusual networks: the fast copy is equal, the original is used, or a one-line error rejects them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import Occlusion, SmoothGrad
from lit_viz.errors import LitVizError, NetworkError
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import Around, scripted
from tests.support.verdicts import reasons, verdicts


def body(classes: int = 4) -> nn.Sequential:
    """Return a small network whose batch norm is not the identity."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, classes, 1)
    )
    norm = layers[1]
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.3, 2)
    return layers.eval()


class Complex(nn.Module):
    """Filters its maps in frequency space by complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = body()[:3]
        self.filter = nn.Parameter(torch.randn(8, 22, 12, dtype=torch.complex64))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.maps(x)) * self.filter
        return self.head(torch.fft.irfft2(spectrum, s=(22, 22)).relu().amax((2, 3)))


class Mixed(nn.Module):
    """Has a head in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = body(5), nn.Linear(5, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1).double())


class BySize(nn.Module):
    """Uses the output of its convolution twice for large images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, *rest = body()
        self.rest = nn.Sequential(*rest)
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.first(x)
        more = self.second(maps).mean((2, 3)) if x.shape[-1] > 100 else 0
        return self.rest(maps).flatten(1) + more


class Shared(nn.Module):
    """Returns itself when it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def __deepcopy__(self, memo: object) -> Shared:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


def masked() -> nn.Module:
    """Return a network whose logit of class 0 is minus infinity."""
    return Around(body(), lambda net, x: net(x).flatten(1).index_fill(1, torch.tensor([0]), -torch.inf))


def drawing() -> nn.Module:
    """Return a network that drops values in eval mode, too."""
    return Around(body(), lambda net, x: nn.functional.dropout(net(x).flatten(1), 0.5, training=True))


def few(network: nn.Module, x: Tensor) -> Tensor:
    """Accept batches of at most two images."""
    if len(x) > 2:
        raise ValueError(f"at most 2 images, got {len(x)}")
    return network(x).flatten(1)


def squeezed(classes: int) -> nn.Module:
    return Around(body(classes), lambda net, x: net(x).squeeze())


def tempered() -> nn.Module:
    """Return a network in train mode whose forward was replaced by one that divides the logits of the old one."""
    network = nn.Sequential(body(6), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 4)).train()
    old = network.forward
    network.forward = lambda x: old(x) / 2  # type: ignore[method-assign]
    return network


def hooked() -> nn.Module:
    network = nn.Sequential(body(), nn.Flatten())
    network.register_forward_hook(lambda _, __, logits: -2 * logits)
    return network


@pytest.mark.parametrize(
    ("made", "side", "checked"),
    [
        (Complex, 24, True),
        (lambda: squeezed(2), 24, True),
        (lambda: squeezed(5), 24, True),
        (Mixed, 24, False),
        (BySize, 192, True),
        (masked, 24, True),
        (Shared, 24, False),
        (tempered, 24, False),
        (hooked, 24, True),
    ],
)
@pytest.mark.parametrize("count", [slow(1), 3])
def test_maps_of_unusual_networks(made: Callable[[], nn.Module], side: int, checked: bool, count: int) -> None:
    network = made()
    classifier = load_network(network, size=side)
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    run = lv.saliency(classifier, x, target=classifier.num_classes - 1, label=[1] * count, captum="captum")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == flags
    network.eval()
    leaf = x.clone().requires_grad_()
    logits = network(leaf * 1).reshape(count, -1)
    (exact_gradient,) = torch.autograd.grad(logits[:, -1].sum(), leaf)
    assert float((run.arrays - exact_gradient).abs().max()) <= 1e-4 * float(exact_gradient.abs().max())
    torch.testing.assert_close(classifier.scores(x), logits.detach().float(), atol=1e-5, rtol=1e-4)
    assert verdicts(run) == [True if checked else None] * count
    assert len(reasons(run)) == (0 if checked else count)


@pytest.mark.parametrize("one", [True, False])
def test_a_squeezed_single_logit_is_restored(one: bool) -> None:
    network = load_network(squeezed(1), size=24)
    x = torch.rand(1 if one else 3, 3, 24, 24)
    logits = network.scores(x)
    assert logits.shape == (len(x), 2)
    z = body(1)(x).flatten().detach()
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())  # the network's own probability
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], z)
    assert all(r["status"] == "done" for r in lv.attack(network, x, attack="pgd", iterations=2).records)


def untracked() -> nn.Module:
    network = nn.Sequential(body(), nn.Flatten())
    network[0][1] = nn.BatchNorm2d(8, track_running_stats=False)
    return network.eval()


@pytest.mark.parametrize(
    "network", [untracked(), Around(body(), lambda net, x: net((x - x.mean()) / x.std()).flatten(1))]
)
def test_networks_that_mix_images_are_rejected(network: nn.Module) -> None:
    with pytest.raises(LitVizError, match="gives an image other logits in a batch than alone"):
        load_network(network, size=24)


def test_networks_with_another_number_of_scores_in_a_later_call_are_rejected() -> None:
    calls = count(3)
    network = Around(body(), lambda net, x: net(x).flatten(1)[:, : next(calls)])
    with pytest.raises(LitVizError, match="must give equally many scores in every evaluation, got 4 after 3: remove"):
        load_network(network, size=24)


def test_lazy_layers_are_rejected() -> None:
    with pytest.raises(LitVizError, match=r"has lazy layers .* call it once"):
        load_network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4)), size=24)


def test_buffers_written_through_data_or_assigned_are_restored() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("last", None)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.data.add_(len(x))
            self.last = x.detach().mean()
            return self.body(x).flatten(1)

    network = Counting()
    classifier = load_network(network, size=24)
    lv.attack(classifier, torch.rand(2, 3, 24, 24), attack="pgd", iterations=2)
    assert network.seen == 0
    assert network.last is None


def test_a_changed_number_of_classes_is_rejected() -> None:
    network = nn.Sequential(body(), nn.Flatten())
    classifier = load_network(network, size=24)
    network[0][4] = nn.Conv2d(8, 7, 1)
    with pytest.raises(LitVizError, match="was loaded with 4 classes and gives 7 logits now: load it again"):
        lv.saliency(classifier, torch.rand(1, 3, 24, 24))


def test_id2label_keys_are_sorted_as_numbers() -> None:
    network = nn.Sequential(body(12), nn.Flatten())
    network.config = SimpleNamespace(image_size=24, id2label={str(i): f"name {i}" for i in range(12)})  # type: ignore[assignment]
    assert load_network(network).labels == tuple(f"name {i}" for i in range(12))


def grey_body(kind: str) -> nn.Module:
    """Return a network of one channel whose first convolution has more."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    if kind == "scripted":
        return scripted(plain.eval())
    return Backwards(plain)


class Backwards(nn.Module):
    """Registers its second convolution before the first."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.second = nn.Conv2d(3, 3, 1)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[:, :, None, None]).flatten(1)


@pytest.mark.parametrize("kind", ["scripted", "backwards"])
@pytest.mark.parametrize("mean", [None, [0.1]])
def test_one_channel_is_detected(kind: str, mean: list[float] | None) -> None:
    network = load_network(grey_body(kind), mean=mean, size=16)
    assert (network.channels, len(network.mean), len(network.std)) == (1, 1, 1)
    assert network.scores(torch.rand(2, 1, 16, 16)).shape == (2, 3)


def test_errors_of_a_network_give_one_line_with_a_suggestion(tmp_path: Path) -> None:
    network = load_network(Around(body(), few), size=24)
    x = torch.rand(5, 3, 24, 24)
    message = (
        r"the network raised ValueError at test_odd_networks\.py:\d+ on images of shape \(5, 3, 24, 24\): at most 2 "
        r"images, got 5; use fewer slots \(now 16\) if the batch is too large"
    )
    with pytest.raises(LitVizError, match=f"^{message}") as failed:
        lv.attack(network, x, attack="pgd", iterations=2, out=tmp_path / "run", wandb="disabled")
    assert isinstance(failed.value.__cause__, NetworkError)
    assert isinstance(failed.value.__cause__.__cause__, ValueError)
    with pytest.raises(LitVizError, match=r"fewer slots \(now 2\) and a smaller batch"):
        lv.saliency(network, x, method="smoothgrad", iterations=8, captum="none", slots=2)


def test_batches_are_not_larger_than_slots(tmp_path: Path) -> None:
    network = load_network(Around(body(), few), size=24)
    x = (torch.rand(5, 3, 24, 24) * 255).round() / 255
    run = lv.attack(network, x, attack="pgd", iterations=2, slots=2, out=tmp_path / "run", wandb="disabled")
    assert {r["status"] for r in run.records} == {"done"}
    methods = [SmoothGrad(), Occlusion(window=8, stride=8)]
    maps = lv.saliency(network, x, method=methods, iterations=8, captum="none", slots=2, batch=2)
    assert len(maps.records) == 10


def test_results_of_a_network_that_draws_are_of_one_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lv.attack(
        load_network(drawing(), size=24), torch.rand(1, 3, 24, 24), attack="pgd", iterations=2, out=tmp_path / "run",
        wandb="disabled", progress=True,
    )  # fmt: skip
    text = "The network draws random numbers: each result and each success is of one draw."
    assert run.evidence.one_draw
    assert text in " ".join(capsys.readouterr().err.split())
    assert text in (tmp_path / "run" / "report.html").read_text()
    assert text in " ".join(part.get_text() for part in run.figure().texts)
    (row,) = run.presentation.rows(run.records, run.evidence)
    assert row["in the file"].endswith(", of one draw")
    assert f"<td>{row['in the file']}</td>" in str(run._repr_html_())
    plain = nn.Sequential(body(), nn.Flatten())
    other = lv.attack(load_network(plain, size=24), torch.rand(1, 3, 24, 24), attack="pgd", iterations=2)
    assert other.evidence.one_draw is None


class Weightless(nn.Module):
    """Odds of dark and bright places; without weights."""

    def forward(self, x: Tensor) -> Tensor:
        p = torch.stack([(30 * (0.4 - x)).sigmoid(), (30 * (x - 0.6)).sigmoid()], 1)
        return p.mean(2).flatten(2).logit(eps=1e-6).logsumexp(2)


def test_formulas_of_a_network_without_weights_are_compared_in_float64() -> None:
    network = load_network(Weightless(), size=24, mean=0.0, std=1.0)
    run = lv.saliency(network, torch.rand(1, 3, 24, 24), method="gradient")
    assert run.evidence.captum.maps[0].formula.difference < 1e-12
    assert verdicts(run) == [True]


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_generator_of_its_own_is_noticed(share: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        logits = net(x).flatten(1)
        return logits + share * logits.abs().amax() * torch.randn(logits.shape, generator=generator)

    network = Around(body(), forward)
    if share == 0.5:
        with pytest.raises(LitVizError, match="gives an image other logits in every call: remove"):
            load_network(network, size=24)
        return
    run = lv.attack(load_network(network, size=24), torch.rand(1, 3, 24, 24), attack="pgd", iterations=2)
    assert run.evidence.one_draw


def test_maps_of_a_network_that_draws_are_not_compared() -> None:
    run = lv.saliency(load_network(drawing(), size=24), torch.rand(1, 3, 24, 24), target=1, captum="captum")
    assert "the network draws random numbers" in str(reasons(run)[0])
