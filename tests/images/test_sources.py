from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.sources import DatasetImages, image_inputs
from lit_viz.networks import Network
from tests.support.marks import slow

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


class Items(Dataset[Any]):
    """A dataset of the items of a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from pictures()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes with two images each."""
    for number, picture in enumerate(pictures(4)):
        place = tmp_path / ("cat", "dog")[number // 2]
        place.mkdir(exist_ok=True)
        Image.fromarray((picture * 255).byte().movedim(0, 2).numpy()).save(place / f"{number}.png")
    return tmp_path


def test_pictures_and_names_of_mixed_images() -> None:
    x = pictures()
    found, names = image_inputs(["cat.jpg", x, Path("dog.jpg"), x[0].movedim(0, 2).numpy()])
    assert names == ["cat.jpg", "array:0", "array:1", "array:2", "dog.jpg", "array:3"]
    torch.testing.assert_close(torch.stack(found), torch.cat((x, x[:1])), rtol=0, atol=0)


@pytest.mark.parametrize(
    "item",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: (x, 2),
        lambda x: (x, torch.tensor(2)),
        lambda x: {"image": x, "label": 2},
        lambda x: {"pixel_values": x, "labels": np.int64(2)},
        lambda x: (Image.fromarray((x * 255).byte().movedim(0, 2).numpy()), 2),
    ],
)
def test_items_of_a_dataset(item: Any) -> None:
    x = pictures()
    dataset = DatasetImages(Items([item(picture) for picture in x]))
    read = [dataset[index] for index in range(len(dataset))]
    values = [picture.float() / (255 if picture.dtype == torch.uint8 else 1) for picture in read]
    torch.testing.assert_close(torch.stack(values), x, rtol=0, atol=1e-7)
    has_label = not isinstance(item(x[0]), Tensor) and len(item(x[0])) > 1
    assert dataset.label(1) == (2 if has_label else None)


@pytest.mark.parametrize("of", [lambda d: d, lambda d: DataLoader(d, 2, shuffle=True), lambda d: Subset(d, [2, 0])])
def test_the_normalization_of_a_transform_is_removed(of: Any, folder: Path) -> None:
    steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    plain = ImageFolder(str(folder), v2.Compose(steps))
    normalized = ImageFolder(str(folder), v2.Compose([*steps, v2.Normalize(MEAN, STD)]))
    assert normalized[0][0].min() < 0
    expected, read = DatasetImages(of(plain)), DatasetImages(of(normalized))
    assert len(read) == len(expected)
    assert read.known_labels() == expected.known_labels()
    for index in range(len(read)):
        torch.testing.assert_close(read[index], expected[index], rtol=0, atol=1e-6)


def test_a_stated_normalization_is_removed() -> None:
    x = pictures()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    dataset = DatasetImages(TensorDataset((x - mean) / std, torch.arange(3)), (MEAN, STD))
    torch.testing.assert_close(dataset[1], x[1], rtol=0, atol=1e-6)
    with pytest.raises(LitVizError, match=r"must be in \[0, 1\], got .* pass them without normalization"):
        DatasetImages(TensorDataset((x - mean) / std))[1]


@pytest.mark.parametrize("method", [lv.saliency, slow(lv.attack)])
@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: list(x),
        lambda x: x.numpy(),
        lambda x: x.movedim(1, 3).numpy(),
        lambda x: [x[:2], x[2].double()],
    ],
)
def test_the_normalization_of_tensors_is_removed(method: Any, given: Any, smooth: Network) -> None:
    x = pictures()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalized = given((x - mean) / std)
    if isinstance(normalized, np.ndarray) and normalized.shape[-1] == 3:
        normalized = [image.astype(np.float64) for image in normalized]
    plain = method(smooth, x, iterations=2, seed=3)
    run = method(smooth, normalized, normalization=(MEAN, STD), iterations=2, seed=3)
    torch.testing.assert_close(run.images, plain.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(run.arrays, plain.arrays, rtol=1e-3, atol=1e-4)


def test_the_error_of_a_normalized_tensor_names_the_remedy(smooth: Network) -> None:
    with pytest.raises(LitVizError, match=r"must be in \[0, 1\], got .* with normalization=\(mean, std\)"):
        lv.saliency(smooth, pictures() * 4 - 2)


@pytest.mark.parametrize("normalization", [0.5, (0.5,), "imagenet", ((0.4, 0.5), 0.2), (0.5, (0.1, 0.2, 0.3, 0.4))])
def test_an_invalid_normalization_is_one_sentence(normalization: Any, smooth: Network) -> None:
    with pytest.raises(LitVizError, match=r"^normalization must be .*, got"):
        lv.saliency(smooth, pictures(), normalization=normalization)


def test_8_bit_images_have_no_normalization(smooth: Network) -> None:
    x = (pictures() * 255).byte()
    run = lv.saliency(smooth, x, normalization=(MEAN, STD), captum="none")
    assert torch.equal(run.arrays, lv.saliency(smooth, x, captum="none").arrays)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "images must be a map-style dataset, with items by index, got Stream: pass a list"),
        (DataLoader(Stream()), "got Stream"),
        (Items([]), "there must be at least one image, got a dataset of 0"),
    ],
)
def test_datasets_that_cannot_be_read_by_index_are_rejected(dataset: Any, message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        DatasetImages(dataset)


def test_an_item_without_an_image_is_rejected() -> None:
    with pytest.raises(LitVizError, match="an item of the dataset must have the key image, got text, label"):
        DatasetImages(Items([{"text": "cat", "label": 1}]))[0]


@pytest.mark.parametrize("loads", [False, True])
def test_a_dataset_gives_the_maps_of_its_images(loads: bool, smooth: Network) -> None:
    x, labels = pictures(), torch.tensor([2, 0, 1])
    dataset: Any = TensorDataset(x, labels)
    of_dataset = lv.saliency(
        smooth, DataLoader(dataset, 2) if loads else dataset, target="label", method="gradient", captum="none"
    )
    of_tensor = lv.saliency(smooth, x, label=labels, target="label", method="gradient", captum="none")
    assert [record["target"] for record in of_dataset.records] == [2, 0, 1]
    torch.testing.assert_close(of_dataset.arrays, of_tensor.arrays, rtol=0, atol=0)
