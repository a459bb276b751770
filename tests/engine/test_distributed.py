"""Several ranks have the draws, decisions and outcomes of a single one."""

from __future__ import annotations

import os
import socket
from contextlib import redirect_stderr
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.engine.ranks import InputShard, RankGroup
from lit_viz.utils.process import launcher_topology
from tests.support.networks import NAMES, smooth_network

Case = tuple[str, str, int]  # method, devices mode, slots


def cases() -> list[Case]:
    return [("visualize", "images", 1), *((kind, mode, 3) for kind in KINDS for mode in ("images", "views"))]


def photographs() -> Tensor:
    return (torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def _visualize(net: Any, **options: Any) -> Any:
    return lv.visualize(net, [0, 1, 2, 3, 4], iterations=5, views=8, oversample=1.0, shown=1.0, **options)


def _restarts(net: Any, **options: Any) -> Any:
    run = lv.visualize(net, [0, 1, 2, 3, 4], iterations=3, restarts=1, views=2, **options)
    assert not run.outcomes or any("restarts" in record.to_dict() for record in run.records)
    return run


def _attack(net: Any, **options: Any) -> Any:
    return lv.attack(net, photographs(), label=[0] * 5, target=2, attack="pgd", eps=0.05, iterations=6, **options)


def _ddn(net: Any, **options: Any) -> Any:
    return lv.attack(net, photographs(), attack="ddn", iterations=6, **options)


def _saliency(net: Any, **options: Any) -> Any:
    return lv.saliency(net, photographs(), target=[1] * 5, method="smoothgrad", iterations=7, captum="none", **options)


KINDS = {"visualize": _visualize, "restarts": _restarts, "attack": _attack, "ddn": _ddn, "saliency": _saliency}


def _compared(record: Any) -> dict[str, Any]:
    """Return the values of a record by name, without its duration."""
    return {key: value for key, value in record.flat().items() if key != "seconds"}


def given(case: Case, **options: Any) -> dict[str, Any]:
    """Run a case and return the outcomes, which must not depend on the number of processes."""
    kind, mode, slots = case
    net = lv.load_network(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    run = KINDS[kind](
        net, slots=slots, devices_mode=mode, trainer={"precision": "64-true", "accelerator": "cpu"}, **options
    )
    if not run.outcomes:
        return {}
    return {
        "results": [_compared(record) for record in run.records],
        "arrays": run.arrays if kind == "saliency" else run.images,
        "curves": [outcome.logged("objective") for outcome in run.outcomes],
        "frames": [[k for k, _ in outcome.frames()] for outcome in run.outcomes],
    }


def run_rank(rank: int, size: int, port: int, file: Path) -> None:
    """Run all cases as one of the processes that torchrun would start; its stderr is the file ``<file>.<rank>``."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    with file.with_suffix(f".{rank}").open("w") as stream, redirect_stderr(stream):
        outcomes = {case: given(case) for case in cases()}
        if all(outcomes.values()):
            torch.save(outcomes, file)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Any]:
    file, port = tmp_path_factory.mktemp("several") / "outcomes.pt", free_port()
    ranks = [get_context("fork").Process(target=run_rank, args=(rank, 2, port, file)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    errors = [file.with_suffix(f".{rank}").read_text()[-3000:] for rank in range(2)]
    assert [process.exitcode for process in ranks] == [0, 0], errors
    outcomes: dict[Case, Any] = torch.load(file, weights_only=False)
    return outcomes


@cache
def on_one_rank(kind: str) -> Any:
    return given((kind, "images", 8))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_two_ranks_have_the_outcomes_of_one(case: Case, by_two: dict[Case, Any]) -> None:
    """In float64, on a smooth network: the same draws, iterates and records, in task order."""
    alone, together = on_one_rank(case[0]), by_two[case]
    torch.testing.assert_close(together["arrays"], alone["arrays"], rtol=0, atol=1e-7)
    assert together["frames"] == alone["frames"]
    assert [r["index"] for r in together["results"]] == [0, 1, 2, 3, 4]
    for record, other in zip(alone["results"], together["results"], strict=True):
        assert record.keys() == other.keys()
        for key, value in record.items():
            if key != "top5":  # files are evaluated in float32
                assert other[key] == (pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value)
    for curve, other_curve in zip(alone["curves"], together["curves"], strict=True):
        assert [k for k, _ in curve] == [k for k, _ in other_curve]
        assert [v for _, v in curve] == pytest.approx([v for _, v in other_curve], rel=1e-8)


# -- a single rank


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("images", "views"), [(1, 8), (3, 4), (5, 1), (1, 1), (2, 2)])
def test_every_input_is_counted_on_one_rank(size: int, images: int, views: int) -> None:
    counted = torch.zeros(images * views, dtype=torch.long)
    for rank in range(size):
        shard = RankGroup(rank, size, "views").shard(images, views)
        assert shard is not None
        counted += shard.counted.long()
        assert len(shard.inputs) % (images if views > 1 else 1) == 0  # as many views of every image
        assert set(torch.nonzero(shard.counted)[:, 0].tolist()) <= set(shard.inputs.tolist())
    assert counted.tolist() == [1] * (images * views)


def test_outputs_are_scattered_and_other_inputs_masked() -> None:
    shard = InputShard(torch.tensor([0, 2]), torch.tensor([False, False, True]))
    rows: Tensor = torch.tensor([[1.0], [2.0]])
    assert shard.mask(shard.scatter(rows)).tolist() == [[0.0], [0.0], [2.0]]


def test_tasks_are_shared_by_their_index() -> None:
    held = [[index for index in range(7) if RankGroup(rank, 3).owns(index)] for rank in range(3)]
    assert held == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(RankGroup(1, 3, "views").owns(index) for index in range(7))


def test_a_run_of_one_process_ignores_an_existing_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    alone = RankGroup.connect("images", 1)
    assert (alone.rank, alone.size) == (0, 1)


@pytest.mark.parametrize(("job", "expected"), [("train", (4, 1)), ("interactive", None), ("bash", None)])
def test_an_interactive_shell_in_an_allocation_is_not_distributed(
    job: str, expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": job}.items():
        monkeypatch.setenv(name, value)
    assert launcher_topology() == expected


def test_a_single_rank_has_all_inputs_and_items() -> None:
    ranks = RankGroup()
    assert ranks.shard(4, 2) is None
    assert ranks.gather([1, 2]) == [1, 2]
    assert ranks.all_gather("status") == ["status"]
