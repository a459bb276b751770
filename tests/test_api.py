"""What Python users hand over: each gets what it means, or one sentence."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.attributions import GradCAM, SmoothGrad
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.images.reading import encode_png, from_pil, read_photograph
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Logit, LogProbability
from lit_viz.outputs import load_network
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from tests.support.networks import NAMES, Around, smooth_network
from tests.support.segments import lose
from tests.support.verdicts import verdicts


def photographs(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def network(**described: Any) -> Network:
    return load_network(smooth_network(), **{"labels": NAMES, "mean": 0.5, "std": 0.25, "size": 16, **described})


def test_a_module_and_a_batch_need_no_size() -> None:
    """The images of the batch have the size of the input."""
    named: dict[str, Any] = {"target": [1] * 3, "captum": "none"}
    expected = lv.saliency(network(mean=0, std=1), photographs(), **named).arrays
    for images in (photographs(), photographs().numpy(), list(photographs())):
        assert torch.equal(lv.saliency(smooth_network(), images, **named).arrays, expected)
    assert lv.attack(smooth_network(), photographs(), target=1, iterations=1).images.shape == (3, 3, 16, 16)
    for images in ("packaged:chelsea", [photographs()[0], torch.rand(3, 20, 20)]):
        with pytest.raises(LitVizError, match="the input size of Smooth is required: give the size"):
            lv.saliency(smooth_network(), images)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_a_module_and_a_batch_of_any_channels_need_no_size(channels: int) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * 16 * 20, 3)).eval()
    images = torch.rand(2, channels, 16, 20)
    run = lv.saliency(module, images, target=1, method="gradient", captum="none")
    last = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    again = lv.saliency(module, last, target=1, method="gradient", captum="none")
    assert run.maps.shape[-2:] == (16, 20)
    assert torch.equal(run.maps, again.maps)


def test_what_a_run_does_not_have_is_one_sentence() -> None:
    run = lv.saliency(network(), photographs(), target=1, method="gradient", captum="none")
    with pytest.raises(LitVizError, match=r"robust_accuracy requires an untargeted attack .*; got no attacked image"):
        _ = run.robust_accuracy
    for index in ("bag", 1.5, None):
        text = f"an outcome of a run is given by its index, got {index!r}: from 0 on, they are"
        with pytest.raises(LitVizError, match=text):
            run[index]  # type: ignore[index]
    assert [outcome.record.index for outcome in run[1:]] == [1, 2]  # type: ignore[index, attr-defined]
    assert len(list(run)) == 3


def test_dir_lists_the_public_names() -> None:
    """IPython completes from it."""
    names = dir(lv)
    assert set(names) == set(lv.__all__)
    assert all(getattr(lv, name) is not None for name in names)
    assert lv.attacks.PGD is PGD


@pytest.mark.parametrize("given", [2, np.int64(2), torch.tensor(2), [2, 2, 2], torch.tensor([2, 2, 2]), np.full(3, 2)])
def test_a_label_for_all_or_one_an_image(given: Any, smooth: Network) -> None:
    """As Python, NumPy or PyTorch have them."""
    run = lv.saliency(smooth, photographs(), target="label", label=given, captum="none")
    assert [(r["label"], r["target"]) for r in run.records] == [(2, 2)] * 3
    assert [r["target"] for r in lv.saliency(smooth, photographs(), target=given, captum="none").records] == [2, 2, 2]


@pytest.mark.parametrize("given", [0.7, True, torch.tensor([0.7, 1.0, 2.0]), [None, 0, 1], torch.eye(3), 99])
def test_invalid_classes_give_a_one_line_error(given: Any, smooth: Network) -> None:
    with pytest.raises(LitVizError):
        lv.attack(smooth, photographs(), label=given, iterations=1)


def test_empty_arguments(smooth: Network) -> None:
    for wrong in (
        lambda: lv.attack(smooth, photographs(1), attack={}),
        lambda: lv.attack(smooth, photographs(1), seed=10**20),
    ):
        with pytest.raises(LitVizError):
            wrong()


def test_a_class_image_starts_from_a_given_image(smooth: Network, tmp_path: Path) -> None:
    """A file, an array, a tensor or an image of Pillow."""
    picture = photographs(1)[0]
    (tmp_path / "picture.png").write_bytes(encode_png(picture))
    how: dict[str, Any] = {"iterations": 2, "config": "small", "parameterization": "Pixels"}
    expected = lv.visualize(smooth, 1, init=tmp_path / "picture.png", **how).images
    pillow = Image.open(tmp_path / "picture.png")
    for given in (picture, picture[None], picture.numpy(), pillow, [picture]):
        run = lv.visualize(smooth, 1, init=given, **how)  # type: ignore[arg-type]
        assert torch.equal(run.images, expected)
        assert run.records[0]["source"] == "array:0"
    larger = lv.visualize(smooth, 1, init=torch.rand(3, 32, 40), fit="pad", **how)
    assert larger.images.shape == (1, 3, 16, 16)
    with pytest.raises(LitVizError, match="init must be one image, got 2"):
        lv.visualize(smooth, 1, init=torch.rand(2, 3, 16, 16), **how)
    how |= {"out": tmp_path / "run", "wandb": "disabled"}
    lv.visualize(smooth, 1, init=picture, **how)
    lose(tmp_path / "run", 0)
    with pytest.raises(LitVizError, match=r"is an array: resume it in Python, with the same call and resume=True"):
        lv.resume(tmp_path / "run", smooth)
    assert torch.equal(lv.visualize(smooth, 1, init=picture, resume=True, **how).images, expected)


def test_numbers_may_be_lists_and_layers_numbers(smooth: Network) -> None:
    """Ranges, lists, tuples and arrays, and the number 4 as the name of a layer."""
    how: dict[str, Any] = {"config": "small", "iterations": 4, "size": 16}
    run = lv.visualize(smooth, layer="features.3", channel=range(2, 4), log_at=[1, 3], curve_at=(2,), **how)
    assert [record["channel"] for record in run.records] == [2, 3]
    assert [iteration for iteration, _ in run.outcomes[0].frames()] == [1, 3, 4]
    assert [iteration for iteration, _ in run.outcomes[0].curve("objective")] == [1, 2, 3, 4]
    both = lv.visualize(smooth, layer="features.3", channel=np.array([5, 1]), **how)
    assert [record["channel"] for record in both.records] == [5, 1]
    flat = nn.Sequential(*smooth_network().features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    net = load_network(flat, mean=0.5, std=0.25, size=16)
    assert lv.visualize(net, layer=4, channel=1, **how).records[0]["layer"] == "4"


def test_a_layer_of_a_network_of_a_fixed_size() -> None:
    """Its views have the size of the network, and images of small networks are those of the configuration small."""
    run = lv.visualize("zoo/fashion_vit", layer="blocks.1", channel=3, axis="feature", iterations=1)
    assert run.images.shape == (1, 1, 28, 28)
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 70 * 70, 2))
    net = lv.load_network(fixed, labels=["a", "b"], mean=[0.5] * 3, std=[0.25] * 3, size=72)
    run = lv.visualize(net, layer="1", channel=3, iterations=1)
    assert run.images.shape == (1, 3, 128, 128)


@pytest.mark.parametrize("name", ["null", "~", "#c", "[x]", "- a", "1e3", "yes"])
def test_class_names_are_not_parsed_as_yaml(name: str) -> None:
    net = network(labels=[*NAMES[:4], name])
    run = lv.saliency(net, photographs(1), target=name, captum="none")
    assert (run.records[0]["target"], run.records[0]["target_name"]) == (4, name)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_images_from_python_equal_their_files(smooth: Network, tmp_path: Path, fit: str) -> None:
    """Images of any size: the network has 16 x 16 pixels."""
    levels = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), np.uint8)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, image in zip(files, levels, strict=True):
        Image.fromarray(image).save(file)
    pillow = [Image.open(file) for file in files]
    tensor = torch.from_numpy(levels).permute(0, 3, 1, 2)
    expected = lv.saliency(smooth, files, target=[0, 1], captum="none", fit=fit)
    kinds = (
        levels,
        tensor,
        tensor / 255,
        (tensor / 255).double().numpy(),
        levels / np.float16(255),
        list(levels),
        pillow,
        (image for image in pillow),
        [files[0], pillow[1]],
        [tensor[0], str(files[1])],
    )
    for images in kinds if fit == "crop" else (levels, pillow):
        run = lv.saliency(smooth, images, target=[0, 1], captum="none", fit=fit)
        close = getattr(images, "dtype", None) == np.float16
        torch.testing.assert_close(run.arrays, expected.arrays, rtol=0, atol=0.05 if close else 0)
        assert [r["original_box"] for r in run.records] == [r["original_box"] for r in expected.records]
    attacked = lv.attack(smooth, files[0], label=0, iterations=2, fit=fit).images
    assert torch.equal(lv.attack(smooth, pillow[0], label=0, iterations=2, fit=fit).images, attacked)
    universal = {"attack": "universal", "iterations": 2, "fit": fit}
    both = [lv.attack(smooth, images, label=[0, 1], **universal).images for images in (files, [pillow[0], files[1]])]
    assert torch.equal(*both)


def test_gray_images_and_classifiers_of_one_channel(smooth: Network) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    assert (
        lv.saliency(smooth, [gray, Image.fromarray(gray), gray[..., None] / 255], target=0, captum="none").maps.shape[0]
        == 3
    )
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    classifier = load_network(network, mean=0.5, std=0.25, size=16)
    color = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert lv.saliency(classifier, [color, gray], target=0, captum="none").arrays.shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "images must be one or several images, got None"),
        (object(), "got object"),
        (3.5, "got float"),
        ([object()], "got object"),
        (np.array([object()]), r"got object \(1,\)"),
        (np.array(["a.png"]), "got <U5"),
        (np.zeros((16, 16, 3), np.int64), r"got int64 \(16, 16, 3\)"),
        (np.zeros((16, 16, 2)), r"got float64 \(16, 16, 2\)"),
        (np.zeros(5), r"got float64 \(5,\)"),
        (torch.zeros(()), r"got torch.float32 \(\)"),
        (torch.zeros(1, 1, 3, 16, 16), "got torch.float32"),
        (torch.zeros(0, 3, 16, 16), "got torch.float32"),
        (torch.zeros(3, 16, 16, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(3, 16, 16, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(3, 16, 16).to_sparse(), "got .* torch.sparse_coo"),
        (torch.zeros(3, 16, 16, device="meta"), "got .* on meta"),
        (torch.full((3, 16, 16), torch.nan), "images must not contain NaN"),
        (torch.full((3, 16, 16), 2.0), "must be in .* got 2 to 2"),
        ([], "at least one image, got 0"),
    ],
)
def test_invalid_images_give_a_one_line_error(smooth: Network, image: Any, message: str) -> None:
    calls = [lambda: lv.saliency(smooth, image, target=0), lambda: lv.attack(smooth, image, label=0)]
    for call in calls + [lambda: lv.visualize(smooth, 0, init=image, config="small")] * (image is not None):
        with pytest.raises(LitVizError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_images_from_python_have_no_folder(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="array:0 has no folder with the name of its class"):
        lv.saliency(smooth, photographs(1), label="folders")


def test_classes_and_classifiers_are_validated(smooth: Network) -> None:
    run = lv.visualize(smooth, torch.tensor([0, 1]), iterations=np.int64(2), config="small")  # type: ignore[arg-type]
    assert [r["target"] for r in run.records] == [0, 1]
    with pytest.raises(LitVizError, match=r"network must be an instance of Network or an instance of Module or a name"):
        lv.saliency(smooth_network, photographs())  # type: ignore[arg-type]


def test_resume_and_check_reject_another_preprocessing(tmp_path: Path) -> None:
    """A bare module gets the recorded preprocessing."""
    run, net = tmp_path / "run", network()
    lv.visualize(net, [0, 1], iterations=3, config="small", out=run, wandb="disabled")
    for other in ({"mean": 0.4}, {"std": 0.5}, {"size": 24}):
        for again in (lv.resume, lv.check):
            with pytest.raises(LitVizError, match=f"run was started with other {next(iter(other))}"):
                again(run, network(**other))
    assert lv.check(run, net.original)
    assert len(lv.resume(run, net.original).records) == 2


def test_an_objective_is_a_name_or_an_instance(smooth: Network) -> None:
    how: dict[str, Any] = {"iterations": 2, "size": 16}
    named = lv.visualize(smooth, "date", objective="LogProbability", gamma=2.0, against="elder", **how)
    instance = lv.visualize(smooth, "date", objective=LogProbability(gamma=2.0), against="elder", **how)
    assert torch.equal(named.images, instance.images)
    assert not torch.equal(named.images, lv.visualize(smooth, "date", against="elder", **how).images)
    with pytest.raises(LitVizError, match="there is no objective 'logits'; did you mean 'logit'"):
        lv.visualize(smooth, "date", objective="logits", **how)
    with pytest.raises(LitVizError, match="objective must be an instance of Objective, got 'logit'"):
        lv.ClassVisualization(smooth, objective="logit")  # type: ignore[arg-type]


def test_an_objective_that_contradicts_the_targets_or_the_layer_is_rejected(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="objective must read a layer where a layer is given, got Logit"):
        lv.visualize(smooth, layer="features.3", objective=Logit())
    with pytest.raises(LitVizError, match=r"target requires an objective of a class, got Channel: leave one out"):
        lv.visualize(smooth, "date", objective=Channel("features.3", 1))
    with pytest.raises(LitVizError, match=r"a run must have classes or a layer, got date and the layer features\.3"):
        lv.visualize(smooth, "date", layer="features.3")


def test_changed_layers_change_the_fast_copy() -> None:
    """An exchanged activation has the maps of a new network."""
    net, x = network(), photographs(1)
    before = lv.saliency(net, x, target=0, captum="none").arrays
    net.original.features[2] = nn.Sigmoid()
    after = lv.saliency(net, x, target=0, captum="none").arrays
    assert torch.equal(after, lv.saliency(network_of(net.original), x, target=0, captum="none").arrays)
    assert not torch.allclose(before, after, rtol=0.1)


def network_of(module: nn.Module) -> Network:
    return load_network(module, labels=NAMES, mean=0.5, std=0.25, size=16)


class Binary(nn.Module):
    def __init__(self, end: str) -> None:
        super().__init__()
        self.net, self.end = smooth_network(classes=1), end
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        ends = {"layer": lambda: self.sigmoid(z).squeeze(1), "function": lambda: torch.sigmoid(z), "none": lambda: z}
        return ends[self.end]()


@pytest.mark.parametrize("end", ["layer", "function"])
def test_a_final_sigmoid_is_rejected(end: str) -> None:
    """A probability of one class, read as a logit, would always predict class 1."""
    assert load_network(Binary("none"), size=16).num_classes == 2
    with pytest.raises(LitVizError, match=r"(?i)ends in sigmoid.*must return logits"):
        load_network(Binary(end), size=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
def test_a_functional_softmax_is_rejected_in_any_precision(function: Any, dtype: torch.dtype) -> None:
    with pytest.raises(LitVizError, match="must return logits"):
        load_network(Around(smooth_network(classes=100), lambda net, x: function(net(x), 1)).to(dtype), size=16)


@pytest.mark.filterwarnings("ignore:. skipped of 3 images")
def test_concurrent_runs_preserve_the_network() -> None:
    module = smooth_network().train()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def attack() -> None:
        for _ in range(3):
            lv.attack(network_of(module), photographs(), label=[0, 1, 2], iterations=2)

    threads = [threading.Thread(target=attack) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(submodule.training for submodule in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())


def test_occlusion_adapts_its_window_to_small_images(smooth: Network) -> None:
    """A window as large as the image would hide everything at once."""
    run = lv.saliency(smooth, photographs(1), target=0, method="occlusion", captum="captum")
    assert run.maps[0].unique().numel() > 10
    assert verdicts(run) == [True]


def test_maps_are_reduced_by_the_reducer_of_their_record(smooth: Network) -> None:
    """As in the figure: largest absolute value, positive part, or values above the least."""
    run = lv.saliency(
        smooth, photographs(1), target=0, method=["gradient", "occlusion", "rise"], iterations=40, captum="none"
    )
    assert [record["reducer"] for record in run.records] == ["max_abs", "positive", "above_least"]
    gradient, occlusion, rise = (outcome.array() for outcome in run.outcomes)
    assert torch.equal(run.maps[0], gradient.abs().amax(0))
    assert torch.equal(run.maps[1], occlusion.sum(0).clamp(min=0))
    assert torch.equal(run.maps[2], rise.sum(0) - rise.sum(0).min())
    by_norm = lv.saliency(smooth, photographs(1), target=0, reducer="l2", captum="none")
    assert torch.equal(by_norm.maps[0], gradient.norm(dim=0))


def test_grad_cam_reads_the_last_layer_with_a_shared_rectifier() -> None:
    class Net(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.c1, self.c2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
            self.r = nn.ReLU()
            self.r2 = self.r if shared else nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.r2(self.c2(self.r(self.c1(x)))).mean((2, 3)))

    maps = [
        lv.saliency(load_network(Net(shared), size=16), photographs(1), target=0, method="grad_cam", captum="none").maps
        for shared in (True, False)
    ]
    assert torch.allclose(maps[0], maps[1], atol=1e-6)


def test_resume_requires_the_python_module_of_the_run(tmp_path: Path) -> None:
    """Its class name is that of no known network."""
    lv.visualize(network(), [0], iterations=1, config="small", out=tmp_path / "run", wandb="disabled")
    for again in (lv.resume, lv.check):
        with pytest.raises(LitVizError, match=r"was started with a Python module \(Smooth\)"):
            again(tmp_path / "run")


def test_the_table_of_several_radii_has_a_column_eps(smooth: Network) -> None:
    x = photographs(1)
    label = smooth.scores(x).argmax(1)
    run = lv.attack(smooth, x, label=label, attack="pgd", eps=[0.01, 0.3], iterations=4)
    recorded = [outcome.record for outcome in run.outcomes]
    assert [row["eps"] for row in AdversarialExamplePresentation().table(recorded)] == ["2.55/255", "76.5/255"]
    assert "eps" not in AdversarialExamplePresentation().table(recorded[:1])[0]


def test_check_in_inference_mode(smooth: Network, tmp_path: Path) -> None:
    """Captum computes gradients in inference mode, too."""
    lv.saliency(smooth, photographs(), out=tmp_path / "run", captum="none", wandb="disabled")
    with torch.inference_mode():
        assert lv.check(tmp_path / "run", smooth)
    assert all(verdicts(tmp_path / "run"))


def test_finished_runs_do_not_need_their_initial_photograph(smooth: Network, tmp_path: Path) -> None:
    picture, run = tmp_path / "picture.png", tmp_path / "run"
    picture.write_bytes(encode_png(photographs()[0]))
    lv.visualize(smooth, [1], init=str(picture), iterations=3, out=run, wandb="disabled")
    picture.unlink()
    assert lv.check(run, smooth)
    assert lv.resume(run, smooth).records[0]["status"] == "done"
    lose(run, 0)
    with pytest.raises(
        LitVizError, match=r"the initial photograph of this run, .*picture\.png, cannot be read: restore the file"
    ):
        lv.resume(run, smooth)
    started = {"init": str(picture), "iterations": 3, "out": tmp_path / "new", "resume": True, "wandb": "disabled"}
    with pytest.raises(LitVizError, match=r"there is no photograph"):  # as jobs begin, which are to go on by themselves
        lv.visualize(smooth, [1], **started)
    assert not (tmp_path / "new").exists()


def test_a_resume_accepts_paths_as_options(smooth: Network, tmp_path: Path) -> None:
    lv.visualize(smooth, [1], iterations=3, out=tmp_path / "run", wandb="disabled")
    assert lv.resume(tmp_path / "run", smooth, project=Path("mine")).records


def test_evolutions_of_attacks_have_distinct_names(smooth: Network) -> None:
    run = lv.attack(smooth, photographs(), target=2, label=0, attack="pgd", iterations=3)
    assert [one.name for one in AdversarialExamplePresentation().evolutions(run.outcomes)][:2] == [
        "image 0 -> cherry",
        "image 1 -> cherry",
    ]


def test_an_initial_image_is_read_as_its_file(tmp_path: Path) -> None:
    """Transparency on white, all 16 bits; and NumPy's mirrored views."""
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    deep = Image.fromarray(np.full((16, 16), 30000, np.uint16))
    for picture in (clear, deep, Image.new("CMYK", (20, 16), (0, 255, 255, 0))):
        file = tmp_path / f"{picture.mode}.tif"
        picture.save(file)
        read = read_photograph(file, (16, 16)).pixels
        torch.testing.assert_close(read_photograph(from_pil(picture), (16, 16)).pixels, read, rtol=0, atol=1 / 255)
    network = load_network(smooth_network(), size=16)
    mirrored = np.random.default_rng(0).random((3, 16, 16), np.float32)[:, ::-1]
    assert len(lv.visualize(network, 1, init=mirrored, iterations=1, config="small").records) == 1


def test_an_empty_list_of_radii_is_rejected() -> None:
    network = load_network(smooth_network(), size=16)
    with pytest.raises(LitVizError, match="eps must have at least one value, got none"):
        lv.attack(network, torch.rand(1, 3, 16, 16), attack="pgd", eps=[])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: lv.visualize(net, [1], slots=None), "slots must be a whole number, got None"),
        (lambda net: lv.visualize(net, [1], config=3), "config must be a path, got 3"),  # type: ignore[arg-type]
        (lambda net: lv.visualize(net, [1], out=5), "out must be a path, got 5"),  # type: ignore[arg-type]
        (
            lambda net: lv.visualize(net, [1], trainer=3),
            "trainer must be an instance of Trainer or a mapping, got 3",
        ),
        (
            lambda net: lv.visualize(net, object()),
            "target must be text or a whole number or a list of them, got <object",
        ),  # type: ignore[arg-type]
        (
            lambda net: lv.saliency(net, photographs(), label=object()),
            "label must be text or a whole number or a list of them",
        ),  # type: ignore[arg-type]
        (lambda net: lv.saliency(net, photographs(), tolerance="a"), "tolerance must be a number, got 'a'"),  # type: ignore[arg-type]
        (
            lambda net: lv.attack(net, photographs(), attack={"pgd": 3}),
            "attack must be an instance of Attack or a name, got",
        ),  # type: ignore[dict-item]
        (lambda net: lv.attack(net, photographs(), attack="pgd", eps=object()), "eps must be a number"),  # type: ignore[arg-type]
        (lambda net: lv.check(5), "folder must be a path or an instance of Run, got 5"),  # type: ignore[arg-type]
        (lambda net: lv.resume(None), "folder must be a path, got None"),  # type: ignore[arg-type]
    ],
)
def test_values_of_another_type_give_a_one_line_error(call: Any, message: str, smooth: Network) -> None:
    with pytest.raises(LitVizError, match=message):
        call(smooth)


@pytest.mark.parametrize("in_folder", [False, True])
def test_progress_is_shown_on_request_and_in_notebooks(
    in_folder: bool, smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    how: dict[str, Any] = {"iterations": 2, "config": "small"}
    how |= {"out": tmp_path / "run", "wandb": "disabled"} if in_folder else {}
    lv.visualize(smooth, 1, **how)
    assert capsys.readouterr() == ("", "")
    lv.visualize(smooth, 1, progress=True, **how, **({"overwrite": True} if in_folder else {}))
    assert "1 of 1 image done" in capsys.readouterr().err
    lines: list[str] = []

    class Handle:
        update = staticmethod(lambda data, raw: lines.append(data["text/plain"]))

    display = ModuleType("IPython.display")
    display.display = lambda *_, **__: Handle()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    lv.visualize(smooth, 1, **how, **({"overwrite": True} if in_folder else {}))
    assert lines[0].startswith("0/1 images · iteration")
    assert "1 of 1 image done" in capsys.readouterr().err


def test_lightning_prints_no_messages_with_the_package_lightning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing ``lightning`` redirects the messages of ``pytorch_lightning`` to its own loggers."""
    logger = logging.getLogger("lightning.fabric.utilities.rank_zero")
    logging.getLogger("lightning.fabric").setLevel(logging.INFO)
    monkeypatch.setattr("lightning_utilities.core.rank_zero.log", logger)
    network = lv.load_network(smooth_network(), mean=0.5, std=0.25, size=16)  # without notes of other tests
    caplog.clear()
    lv.visualize(network, 1, iterations=1, config="small")
    assert caplog.messages == []


@pytest.mark.usefixtures("few_queries")
def test_a_run_in_memory_has_the_evidence_of_a_run_in_a_folder(smooth: Network, tmp_path: Path) -> None:
    x = photographs()
    labels = smooth.scores(x).argmax(1)
    how: dict[str, Any] = {"attack": "pgd", "eps": 0.02, "iterations": 6}
    memory = lv.attack(smooth, x, label=labels, **how)
    folder = lv.attack(smooth, x, label=labels, out=tmp_path / "run", wandb="disabled", **how)
    before = [record.to_dict() for record in memory.records]
    assert memory.evidence == folder.evidence
    assert [record.to_dict() for record in memory.records] == before
    assert memory.evidence.files.read == 3
    assert memory.evidence.trust is not None
    assert lv.check(memory, trust=True)
    assert memory.evidence.trust.harder is not None
    assert folder.check(trust=True)
    assert folder.evidence == memory.evidence
    with pytest.raises(LitVizError, match="faithfulness does not apply to AdversarialExample"):
        memory.check(faithfulness=True)


def test_the_evidence_of_saliency_maps_and_class_images_in_memory(smooth: Network) -> None:
    maps = lv.saliency(smooth, photographs(), captum="none")
    assert maps.evidence.captum is None
    assert maps.check()
    assert verdicts(maps) == [True] * 3
    images = lv.visualize(smooth, [0, 1], iterations=3, config="small")
    assert images.evidence.pictures is None
    assert images.check()
    assert (images.evidence.pictures.read, images.evidence.pictures.same) == (2, 2)


def test_attacks_and_methods_may_be_instances(smooth: Network, tmp_path: Path) -> None:
    x = photographs()
    labels = smooth.scores(x).argmax(1)
    pgd = PGD(alpha=0.01, eps=0.05)
    expected = lv.attack(smooth, x, label=labels, attack="pgd", alpha=0.01, eps=0.05, iterations=4)
    state = dict(vars(pgd))
    for _ in range(2):
        assert torch.equal(lv.attack(smooth, x, label=labels, attack=pgd, iterations=4).images, expected.images)
    assert vars(pgd) == state
    with pytest.raises(LitVizError, match=r"eps must be an argument of the instance, PGD\(eps=0.1\)"):
        lv.attack(smooth, x, attack=pgd, eps=0.1)
    maps = lv.saliency(smooth, x, target=0, method=["gradient", SmoothGrad(sigma=0.3)], captum="none").arrays
    named = lv.saliency(smooth, x, target=0, method="gradient,smoothgrad", sigma=0.3, captum="none").arrays
    assert torch.equal(maps, named)
    run = lv.saliency(smooth, x, target=0, method=GradCAM(reshape=lambda a: a), out=tmp_path / "run", wandb="disabled")
    assert run.check()
    assert "GradCAM (instance)" in (tmp_path / "run" / "config.yaml").read_text()
    for again in (lv.resume, lv.check):
        with pytest.raises(LitVizError, match="started with an instance of GradCAM: continue in Python"):
            again(tmp_path / "run", smooth)
    how: dict[str, Any] = {"method": GradCAM(), "out": tmp_path / "run", "wandb": "disabled", "resume": True}
    assert torch.equal(lv.saliency(smooth, x, target=0, **how).maps, run.maps)


def test_the_images_of_a_run_in_memory_are_freed_with_it(smooth: Network) -> None:
    """Without a collection of reference cycles, which is rare: a Trainer contains itself."""
    gc.collect()
    gc.disable()
    try:
        run = lv.saliency(smooth, photographs(), target=0, captum="none")
        results = [weakref.ref(item) for item in gc.get_objects() if type(item) is Result]
        assert len(results) == len(run) == 3
        del run
        assert [result() for result in results] == [None] * 3
    finally:
        gc.enable()


def test_help_lists_the_options_of_the_parts() -> None:
    saliency, attack = lv.saliency.__doc__ or "", lv.attack.__doc__ or ""
    assert "smoothgrad: sigma, backprop" in saliency
    assert "SaliencyMap: method, reducer, tolerance" in saliency
    assert "pgd: norm, eps, alpha" in attack


def test_check_prints_its_verdicts(smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lv.saliency(smooth, torch.rand(1, 3, 16, 16), captum="none", out=tmp_path / "run")
    assert capsys.readouterr().err == ""
    assert run.check()
    assert "1 of 1 compared maps agree with Captum" in capsys.readouterr().err
    assert lv.check(tmp_path / "run", smooth, progress=False)
    assert capsys.readouterr().err == ""
