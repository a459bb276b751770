"""The numbers of runs, against computations from their files with PIL, NumPy, SciPy and scikit-image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax, softmax
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.evidence.judges import MOBILENET, installed_judges, mobilenet_weights
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import smooth_network

Array = NDArray[np.float64]
MEAN, STD = 0.5, 0.25


def photographs(count: int, seed: int = 5) -> Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


def read(path: Path) -> Array:
    """Return an image ``(H, W, 3)`` in [0, 1]."""
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def records(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``results.jsonl``, with the values of ``metrics`` and ``settings`` beside the others."""
    return [line | line["metrics"] | line["settings"] for line in rows(run / "results.jsonl")]


def curve(run: Path, task: str, metric: str) -> dict[int, float]:
    lines = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:])
    return {int(k): float(value) for name, k, of, value in lines if (name, of) == (task, metric)}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return smooth_network().double()


@pytest.fixture
def net() -> Network:
    return load_network(smooth_network(), labels=list("abcde"), mean=[MEAN] * 3, std=[STD] * 3, size=16)


def evaluate(module: nn.Module, image: Array) -> Array:
    """Return the logits of an image ``(H, W, 3)`` by the module itself."""
    x = torch.from_numpy((image - MEAN) / STD).permute(2, 0, 1)[None]
    with torch.no_grad():
        return np.asarray(module(x)[0])


def jpeg(image: Array, quality: int) -> Array:
    data = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(data, "JPEG", quality=quality)
    return read(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("targeted", [slow(False), True])
@pytest.mark.parametrize(("attack", "norm"), [("pgd", "linf"), ("ddn", None)])
def test_records_of_attacks(
    attack: str, norm: Any, targeted: bool, net: Network, module: nn.Module, tmp_path: Path
) -> None:
    x, run = photographs(4), tmp_path / "run"
    labels = net.scores(x).argmax(1).tolist()
    targets = [(label + 1) % 5 for label in labels] if targeted else None
    budget = {"eps": 0.1, "norm": norm} if norm else {}
    lv.attack(net, x, label=labels, target=targets, attack=attack, iterations=12, out=run, wandb="disabled", **budget)
    for n, record in enumerate(records(run)):
        source, image = x[n].permute(1, 2, 0).double().numpy(), read(run / record["file"])
        goal = labels[n] if targets is None else targets[n]
        logits, change = evaluate(module, image), (image - source) * 255
        others = np.delete(logits, goal).max()
        margin = logits[goal] - others if targeted else others - logits[goal]
        inside = not norm or np.abs(change).max() <= 0.1 * 255 + 1e-6

        def fools(picture: Array, goal: int = goal) -> bool:
            return bool((evaluate(module, picture).argmax() == goal) == targeted)

        assert record["success_file"] == (fools(image) and inside)
        assert record["predicted"] == logits.argmax()
        assert record["probability"] == pytest.approx(softmax(logits)[goal], abs=1e-5)
        assert record["margin"] == pytest.approx(margin, abs=1e-4)
        assert record["l2"] == pytest.approx(np.sqrt(((change / 255) ** 2).sum()), abs=1e-6)
        assert record["linf"] == pytest.approx(np.abs(change).max() / 255, abs=1e-6)
        assert record["l0"] == pytest.approx((change.round() != 0).mean(), abs=1e-9)
        assert record["psnr"] == pytest.approx(peak_signal_noise_ratio(source, image, data_range=1), abs=1e-3)
        similarity = structural_similarity(
            source, image, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert record["ssim"] == pytest.approx(similarity, abs=1e-3)
        for quality in (95, 75):
            expected = record["success_file"] and fools(jpeg(image, quality))
            assert record[f"success_jpeg{quality}"] == expected
        probabilities = softmax(evaluate(module, source))
        assert record["probability_before"] == pytest.approx(probabilities[goal], abs=1e-5)


def test_curves_of_attacks_are_of_the_image_at_each_iteration(net: Network, module: nn.Module, tmp_path: Path) -> None:
    """Frames are rounded to 8 bits, so that curves differ from them by up to half a level."""
    x, run = photographs(3), tmp_path / "run"
    labels = net.scores(x).argmax(1).tolist()
    options: dict[str, Any] = {"attack": "pgd", "early_stop": False, "eps": 0.1, "iterations": 6}
    lv.attack(net, x, label=labels, log_at="every:1", out=run, wandb="disabled", **options)
    for record in records(run):
        task = Path(record["file"]).stem
        probability, linf = curve(run, task, "probability"), curve(run, task, "linf")
        source = read(run / "frames" / task / "iter_000000.png")
        for k in range(record["iterations"]):  # the final frame is the file, which holds the best image
            frame = read(run / "frames" / task / f"iter_{k:06d}.png")
            assert probability[k] == pytest.approx(softmax(evaluate(module, frame))[record["label"]], abs=0.01)
            assert linf[k] == pytest.approx(np.abs(frame - source).max(), abs=0.5 / 255 + 1e-6)


def test_records_and_curves_of_class_images(net: Network, module: nn.Module, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options: dict[str, Any] = {"iterations": 6, "log_at": "1,3,6", "curve_at": "every:1", "wandb": "disabled"}
    lv.visualize(net, [1, 4], out=run, **options)
    for record in records(run):
        task, target = Path(record["file"]).stem, record["target"]
        logits = evaluate(module, read(run / record["file"]))
        assert record["probability"] == pytest.approx(softmax(logits)[target], abs=1e-5)
        assert record["logit"] == pytest.approx(logits[target], abs=1e-4)
        assert record["rank"] == 1 + (logits > logits[target]).sum()
        assert [name for name, _ in record["top5"]] == ["abcde"[k] for k in np.argsort(-logits)]
        for k in (1, 3, 6):
            frame = evaluate(module, read(run / "frames" / task / f"iter_{k:06d}.png"))
            assert curve(run, task, "probability")[k] == pytest.approx(softmax(frame)[target], abs=1e-4)


def test_objective_file_is_the_mean_activation_of_the_file(net: Network, module: nn.Module, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options: dict[str, Any] = {"layer": "features.3", "channel": "1,2", "config": "channels", "iterations": 4}
    lv.visualize(net, out=run, wandb="disabled", **options)
    activations: list[Tensor] = []
    handle = module.get_submodule("features.3").register_forward_hook(lambda *call: activations.append(call[2]))
    for record in records(run):
        evaluate(module, read(run / record["file"]))
        assert record["objective_file"] == pytest.approx(float(activations[-1][0, record["channel"]].mean()), abs=1e-4)
    handle.remove()


def test_fooling_rates_are_counts_of_files(net: Network, module: nn.Module, tmp_path: Path) -> None:
    x, run = photographs(10), tmp_path / "run"
    labels = net.scores(x).argmax(1).tolist()
    labels[0] = (labels[0] + 1) % 5  # misclassified without a perturbation: not counted
    options: dict[str, Any] = {"eps": 0.06, "norm": "linf", "iterations": 5, "held_out": 0.4, "wandb": "disabled"}
    result = lv.attack(net, x, label=labels, attack="universal", out=run, **options)
    fooled: dict[bool, list[bool]] = {False: [], True: []}
    for photograph in rows(run / "photographs" / "0000_universal.jsonl"):
        n = photograph["index"]
        predicted = int(evaluate(module, x[n].permute(1, 2, 0).double().numpy()).argmax())
        if predicted == labels[n]:
            image = read(next((run / "photographs" / "0000_universal").glob(f"{n:04d}_image_{n}.png")))
            fooled[photograph["held_out"]].append(int(evaluate(module, image).argmax()) != labels[n])
    (record,) = records(run)
    assert (record["trained_on"], record["held_out"]) == (len(fooled[False]), len(fooled[True]))
    assert record["fooling_rate"] == pytest.approx(np.mean(fooled[False]))
    assert record["held_out_fooling_rate"] == pytest.approx(np.mean(fooled[True]))
    lines = json.loads((run / "evidence.json").read_text())["universal"]["universal"]
    assert (
        lines[0] == f"fools {sum(fooled[False])} of {len(fooled[False])} trained on"
    )  # no interval: optimized on them
    assert lines[1].startswith(f"fools {sum(fooled[True])} of {len(fooled[True])} held out (95 %: ")
    assert lines[0] in " ".join(text.get_text() for text in result.figure().texts).replace("\n", " ")


@pytest.mark.slow
def test_judges_evaluate_the_file(lite0: Network, tmp_path: Path) -> None:
    """At their own input size; the optimized network is no judge of itself."""
    run = tmp_path / "run"
    lv.visualize(lite0, [76], iterations=1, views=1, out=run, wandb="disabled")
    (record,) = records(run)
    assert set(record["judges"]) == set(installed_judges(lite0))
    assert {"efficientnet_lite1", "efficientnet_lite2"} <= set(record["judges"])
    for name, verdict in record["judges"].items():
        judge = load_network(name, weights=mobilenet_weights() if name == MOBILENET else "DEFAULT")
        height, width = judge.size
        image = torch.from_numpy(read(run / record["file"])).permute(2, 0, 1)[None].float()
        resized = nn.functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (judge.mean, judge.std))
        with torch.no_grad():
            logits = judge.original((resized - mean) / std)[0].double().numpy()
        assert verdict["probability"] == pytest.approx(np.exp(log_softmax(logits)[76]), rel=0.05, abs=1e-4)
        assert verdict["rank"] == pytest.approx(1 + (logits > logits[76]).sum(), abs=5)
