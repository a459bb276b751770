"""What every attack promises, asked of DeepFool, FMN, Carlini and Wagner and Square too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lit_viz.attacks import FMN, Attack, CarliniWagner, DeepFool, Square
from tests.attacks import test_contract as contract

MADE: dict[str, Callable[[], Attack]] = {
    "deepfool": DeepFool,
    "deepfool, linf": lambda: DeepFool("linf"),
    "fmn": FMN,
    "fmn, linf": lambda: FMN("linf"),
    "carlini and wagner": lambda: CarliniWagner(steps=3, lr=0.1),
    "square": lambda: Square(eps=0.1),
    "square, l2": lambda: Square("l2", 2.0),
    "square, on": lambda: Square(eps=0.1, early_stop=False),
}
every = pytest.mark.parametrize("name", MADE)
targeted = pytest.mark.parametrize("targeted", [False, True])


@pytest.fixture(autouse=True)
def _asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MADE", MADE)


@every
@targeted
@pytest.mark.parametrize("promise", [contract.test_a_batch_changes_nothing, contract.test_what_is_called_fooled_is])
def test_with_and_without_a_target(promise: Callable[[str, bool], None], name: str, targeted: bool) -> None:
    promise(name, targeted)


@every
@pytest.mark.parametrize(
    "promise",
    [
        contract.test_an_image_that_is_done_is_not_asked_about_again,
        contract.test_images_are_feasible_at_every_update,
        contract.test_float32_is_feasible_too,
        contract.test_no_number_is_no_success,
        contract.test_slots_differ_in_age,
        contract.test_the_global_random_state_is_left_alone,
        contract.test_neither_photographs_nor_states_nor_who_is_done_are_changed,
    ],
)
def test_untargeted(promise: Callable[[str], None], name: str) -> None:
    promise(name)


@pytest.mark.parametrize("name", [name for name in MADE if name != "square, on"])
@targeted
def test_who_is_seen_as_wanted_costs_a_forward_and_stays(name: str, targeted: bool) -> None:
    contract.test_who_is_seen_as_wanted_costs_a_forward_and_stays(name, targeted)


@pytest.mark.parametrize("name", [name for name in MADE if not name.startswith("square")])
def test_without_a_gradient_the_image_stays(name: str) -> None:
    contract.test_without_a_gradient_the_image_stays(name)
