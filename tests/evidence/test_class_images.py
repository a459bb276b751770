"""The sanity figure of class images: with photographs of known classes, and in the evidence of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.evidence.class_images import class_image_naturalness, photographs_by_class
from lit_viz.evidence.naturalness import (
    best_late_figure,
    channel_means,
    naturalness,
    network_layers,
    null_deviations,
)
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.runs.evidence import LayerNaturalness
from lit_viz.runs.records import ClassImageRecord
from lit_viz.zoo import FASHION_LABELS
from lit_viz.zoo.photographs import photograph_file


@pytest.fixture(scope="module")
def net() -> Network:
    return lv.load_network("zoo/fashion_cnn")


def record(target: int, name: str) -> ClassImageRecord:
    return ClassImageRecord(index=target, name=name, status="done", target=target, target_name=name, top5=[], judges={})


def test_the_class_is_that_of_the_folder_or_the_predicted_one(net: Network, tmp_path: Path) -> None:
    bag = photograph_file("fashion/bag_18")
    (tmp_path / "trouser").mkdir()
    (tmp_path / "trouser" / "bag.png").write_bytes(bag.read_bytes())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bag.png").write_bytes(bag.read_bytes())
    assert photographs_by_class(net, [tmp_path / "trouser"])[1] == [net.labels.index("trouser")]
    assert photographs_by_class(net, [tmp_path / "photos"])[1] == [net.labels.index("bag")]


def test_a_photograph_is_natural_and_noise_is_not(net: Network) -> None:
    trouser, bag = net.labels.index("trouser"), net.labels.index("bag")
    files, classes = photographs_by_class(net, ["zoo:fashion"])
    assert len(files) == 60
    own = [file for file, label in zip(files, classes, strict=True) if label == trouser]
    photograph = read_photograph(own[0], net.size, 1).pixels
    noise = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = class_image_naturalness(net, ["zoo:fashion"], [(record(trouser, "trouser"), photograph)])
    other = class_image_naturalness(net, ["zoo:fashion"], [(record(trouser, "trouser"), noise)])
    as_bag = class_image_naturalness(net, ["zoo:fashion"], [(record(bag, "bag"), photograph)])
    for natural, unnatural in zip(found.images[0].layers, other.images[0].layers, strict=True):
        assert natural.is_decidable
        assert natural.value > 0.8
        assert unnatural.value < natural.value
    assert as_bag.images[0].layers[-1].value < found.images[0].layers[-1].value - 0.5
    assert found.images[0].photographs == 6

    layers = network_layers(net)
    pixels = torch.stack([read_photograph(file, net.size, 1).pixels for file in files])
    means = channel_means(net, layers, pixels)
    is_own = torch.tensor(classes) == trouser
    synthetic = {layer: rows[0] for layer, rows in channel_means(net, layers, photograph[None]).items()}
    natural_means = {layer: rows[is_own] for layer, rows in means.items()}
    random_means = {layer: rows[~is_own] for layer, rows in means.items()}
    expected = naturalness(synthetic, natural_means, random_means)
    values = [figure.value for figure in found.images[0].layers]
    assert values == pytest.approx([figure.value for figure in expected], abs=1e-5)


class Confused(nn.Module):
    """The logit of ``dress`` is at least that of ``ankle boot``."""

    def forward(self, logits: Tensor) -> Tensor:
        dress, boot = FASHION_LABELS.index("dress"), FASHION_LABELS.index("ankle boot")
        return torch.cat([logits[:, :dress], logits[:, [dress, boot]].amax(1, keepdim=True), logits[:, dress + 1 :]], 1)


def test_a_class_image_of_another_class_is_flagged(net: Network) -> None:
    mean, std = net.mean, net.std
    confused = lv.load_network(
        nn.Sequential(*net.original.children(), Confused()), labels=net.labels, mean=mean, std=std, size=28
    )
    files, classes = photographs_by_class(net, ["zoo:fashion"])
    images = []
    for label, name in enumerate(net.labels):
        shown = net.labels.index("ankle boot") if name == "dress" else label
        file = files[classes.index(shown)]
        images.append((record(label, name), read_photograph(file, net.size, 1).pixels))
    found = class_image_naturalness(confused, ["zoo:fashion"], images)
    assert [image.target_name for image in found.images if image.flag] == ["dress"]
    assert {image.flag for image in found.images} == {"", "unnatural"}
    best = [best_late_figure(image.layers) for image in found.images]
    assert [image.deviation for image in found.images] == pytest.approx(null_deviations(best))
    few = class_image_naturalness(confused, ["zoo:fashion"], images[:8])
    assert [image.deviation for image in few.images] == [None] * 8
    failed = class_image_naturalness(net, ["zoo:fashion"], images).images[net.labels.index("dress")]
    assert (failed.deviation, failed.flag) == (None, "")  # the network does not see the class


def test_an_image_of_another_size_is_fitted(net: Network) -> None:
    bag = net.labels.index("bag")
    pixels = read_photograph(str(photograph_file("fashion/bag_18")), net.size, 1).pixels
    twice = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = class_image_naturalness(net, ["zoo:fashion"], [(record(bag, "bag"), twice)])
    assert found.images[0].layers[-1].is_decidable


def test_one_high_figure_of_a_late_layer_suffices() -> None:
    def figures(*values: float | None) -> list[LayerNaturalness]:
        found = []
        for value in values:
            found.append(LayerNaturalness(layer="", value=value or 0.0, low=-1, high=1, is_decidable=value is not None))
        return found

    assert best_late_figure(figures(0.9, 0.8, 0.1, 0.3, None)) == 0.3
    assert best_late_figure(figures(0.9, None)) is None
    assert best_late_figure(figures(0.2)) == 0.2
    assert best_late_figure([]) is None


def test_a_class_without_photographs_is_not_decidable(net: Network) -> None:
    image = torch.rand(1, 28, 28)
    found = class_image_naturalness(net, [photograph_file("fashion/bag_18")], [(record(1, "trouser"), image)])
    assert found.images[0].layers == []
    assert found.images[0].photographs == 0


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("zoo/fashion_cnn", ["conv1", "relu1", "conv2", "relu2", "flatten", "fc", "relu3"]),
        ("zoo/fashion_vit", ["blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_blocks_are_compared_or_all_outer_layers(name: str, layers: list[str]) -> None:
    assert list(network_layers(lv.load_network(name))) == layers


def test_check_adds_the_figure_to_evidence_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    lv.visualize("zoo/fashion_robust_cnn", ["sneaker", "bag"], config="small", iterations=3, logger=None, out=out)
    main(["check", str(out), "--images", "zoo:fashion"])
    assert "Similarity of class images to photographs of their class" in capsys.readouterr().err
    found = json.loads((out / "evidence.json").read_text())["naturalness"]
    assert found["photographs"] == 60
    assert [image["target_name"] for image in found["images"]] == ["sneaker", "bag"]
    assert len(found["images"][0]["layers"]) == 7
    assert "Similarity of class images" in (out / "report.html").read_text()
    with pytest.raises(SystemExit):
        main(["check", str(out), "--imagse", "zoo:fashion"])
    assert "unrecognized option --imagse; did you mean --images" in capsys.readouterr().err


def test_photographs_apply_to_class_images_only() -> None:
    run = lv.saliency("zoo/fashion_cnn", "zoo:fashion/bag_18")
    with pytest.raises(lv.LitVizError, match="images does not apply"):
        run.check(images="zoo:fashion")
