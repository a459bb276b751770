"""Several values of one argument; sequences whose elements are made when they are accessed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")
Element = TypeVar("Element")


def as_list(value: Any) -> list[Any]:
    """Return the values of a list or tuple as a list; another value as its only element."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def split_commas(value: Any) -> Any:
    """Return the words of a text with commas; another value unchanged."""
    if isinstance(value, str):
        return value.split(",")
    return value


class LazySequence(Sequence[T]):
    """Base class of sequences without stored elements, which the memory does not hold; subclasses implement the length
    and :meth:`make`."""

    @abstractmethod
    def make(self, position: int) -> T:
        """Return the element at a position from 0 to the length less 1."""

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> list[T]: ...
    def __getitem__(self, key: Any) -> Any:
        positions = range(len(self))[key]
        if isinstance(positions, range):
            return list(map(self.make, positions))
        return self.make(positions)


class MappedSequence(LazySequence[T]):
    """The values of a function for the elements of a sequence."""

    def __init__(self, function: Callable[[Element], T], elements: Sequence[Element]) -> None:
        self._function: Callable[[Any], T] = function
        self._elements = elements

    def __len__(self) -> int:
        return len(self._elements)

    def make(self, position: int) -> T:
        return self._function(self._elements[position])

    def __iter__(self) -> Iterator[T]:
        return map(self._function, self._elements)
