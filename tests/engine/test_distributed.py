"""Several ranks have the draws, decisions and outcomes of a single one."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.engine.ranks import InputShard, RankGroup
from lit_viz.utils.process import launcher_topology
from tests.engine.several import Case, cases, given, run_rank

ROOT = Path(__file__).parents[2]


def torchrun(*words: str, processes: int = 2, node: tuple[int, int, int] | None = None) -> list[str]:
    """Return the command that starts processes; ``node``: (rank, nodes, port) of one of several nodes."""
    rank, nodes, port = node or (0, 1, free_port())
    address = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    where = ["--nnodes", str(nodes), "--node_rank", str(rank), "--nproc_per_node", str(processes), *address]
    return [sys.executable, "-m", "torch.distributed.run", *where, *words]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


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
