from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from lit_viz import images
from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.errors import LitVizError
from lit_viz.optim import RULES
from lit_viz.utils.parts import INSTANCE, Part, constructor_parameters, has_instances, plain_arguments


def read_back(plain: Any) -> Any:
    """Make a part from its class path and arguments."""
    if isinstance(plain, list):
        return [read_back(item) for item in plain]
    if not isinstance(plain, dict) or "class_path" not in plain:
        return plain
    module, name = plain["class_path"].rsplit(".", 1)
    arguments = {key: read_back(value) for key, value in plain.get("init_args", {}).items()}
    return getattr(import_module(module), name)(**arguments)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        (ATTACKS["pgd"], {"eps": 4 / 255, "alpha": 0.01}),
        (ATTRIBUTIONS["occlusion"], {"window": [4, 8], "stride": 2}),
        (RULES["adam"], {"lr": 0.5}),
        (images.Jitter, {"pixels": 3}),
    ],
)
def test_given_arguments_are_read_back(part: Any, changes: dict[str, Any]) -> None:
    made = part(**changes)
    assert plain_arguments(made.arguments).items() >= plain_arguments(changes).items()
    assert read_back(plain_arguments(made)).arguments.keys() == made.arguments.keys()
    assert plain_arguments(read_back(plain_arguments(made))) == plain_arguments(made)


class Base(Part):
    def __init__(self, size: int = 2, **options: Any) -> None:
        self.size = size


class Derived(Base):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(size=5, **options)
        self.name = name


@dataclass
class Fields(Part):
    count: int = 1


def test_the_constructor_of_the_object_is_recorded_and_not_that_of_its_base() -> None:
    assert Derived("a", extra=3).arguments == {"name": "a", "extra": 3}
    assert Base().arguments == {"size": 2}
    assert Fields(4).arguments == {"count": 4}


def test_a_part_with_changed_arguments_is_a_new_part() -> None:
    first = Derived("a", extra=3)
    second = first.with_arguments(name="b")
    assert (first.name, second.name) == ("a", "b")
    assert second.arguments == {"name": "b", "extra": 3}


def test_a_recorded_list_is_a_copy() -> None:
    windows = [4, 8]
    occlusion = ATTRIBUTIONS["occlusion"](window=windows)
    windows.append(16)
    assert occlusion.arguments["window"] == [4, 8]


@pytest.mark.parametrize(("kind", "value"), [(Base, "x"), (Base, 1.5), (Base, True), (Fields, None)])
def test_arguments_of_another_type_are_rejected(kind: Any, value: Any) -> None:
    with pytest.raises(LitVizError, match=r"^(size|count) must be a whole number, got"):
        kind(value)


def test_what_a_configuration_cannot_hold_is_marked() -> None:
    local = Base(function=lambda x: x)
    assert plain_arguments(lambda x: x) == f"function{INSTANCE}"
    assert plain_arguments(local) == f"Base{INSTANCE}"
    assert has_instances({"parts": [plain_arguments(local)]})
    assert not has_instances(plain_arguments(Base(function=inspect.isclass)))
    assert plain_arguments(inspect.isclass) == "inspect:isclass"


def test_parameters_include_those_that_reach_the_base() -> None:
    assert list(constructor_parameters(Derived)) == ["name", "size"]
