"""What is read is read once, and what was sent isn't read back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_viz.utils.device import to_cpu, to_device, to_list


class Counted(Tensor):
    """A tensor that counts how often its values are read."""

    reads = 0

    def tolist(self) -> list[object]:
        type(self).reads += 1
        return self.as_subclass(Tensor).tolist()


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(Counted, "reads", 0)
    return torch.arange(3).as_subclass(Counted)


def test_a_tensor_is_read_once_until_it_is_changed(numbers: Tensor) -> None:
    first = to_list(numbers)
    assert (first, to_list(numbers), Counted.reads) == ([0, 1, 2], [0, 1, 2], 1)
    first.append(3)
    assert to_list(numbers) == [0, 1, 2]  # each call returns its own list
    numbers[0] = 7
    assert (to_list(numbers), Counted.reads) == ([7, 1, 2], 2)
    numbers[1:].zero_()  # by a view of it
    assert (to_list(numbers), Counted.reads) == ([7, 0, 0], 3)


def test_inference_tensors_are_read_each_time() -> None:
    with torch.inference_mode():
        numbers = torch.zeros(2)
        assert to_list(numbers) == [0, 0]
        numbers += 1
        assert to_list(numbers) == [1, 1]


def test_transferred_tensors_are_reused() -> None:
    """The meta device holds no values: they can't be read back."""
    there = to_device([1.5, 2.5], torch.device("meta"), torch.float64)
    assert (there.dtype, there.device.type, to_list(there)) == (torch.float64, "meta", [1.5, 2.5])
    assert to_list(to_device(torch.tensor([[True, False]]), torch.device("meta"))) == [[True, False]]
    with pytest.raises(NotImplementedError):
        to_list(to_device(torch.zeros(1 << 13), torch.device("meta")))  # so many are no numbers to think about


def test_on_the_processor_nothing_is_copied() -> None:
    x = torch.rand(3)
    assert to_device(x, torch.device("cpu")) is x
    assert to_cpu(x) is x
