"""A user's own network: from files in the folder in which the commands are typed to pictures of what it has learned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.outputs import load_network

NETS = """
from types import SimpleNamespace

from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9), nn.Flatten())
        self.head = nn.Linear(4 * 36, classes)

    def forward(self, x):
        return self.head(self.features(x))


class Hugging(Net):
    config = SimpleNamespace(image_size=8, id2label={0: "cat", 1: "dog", 2: "emu"})

    def forward(self, pixel_values):
        return SimpleNamespace(logits=super().forward(pixel_values))


def three(): return Net(3)
def hugging(): return Hugging(3)
def ending(): return nn.Sequential(Net(3), nn.Softmax(1))
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a module's name, of a file in the current folder."""
    name = f"nets_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return name


def saved(network: nn.Module, path: Path, data: object = "digits") -> dict[str, Tensor]:
    """Write a checkpoint as a Lightning training does; return the network's weights."""

    class Training(pl.LightningModule):
        def __init__(self, data: object) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = network
            self.register_buffer("class_weights", torch.ones(3))

        def training_step(self, batch: Tensor) -> None:
            return None

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    trainer = pl.Trainer(
        max_epochs=0, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Training(data), torch.zeros(1, 1))
    trainer.save_checkpoint(path)
    return network.state_dict()


def test_a_lightning_checkpoint_of_a_factory_in_the_current_folder(nets: str) -> None:
    trained = load_network(f"{nets}:three", size=8).original
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    weights = saved(trained, Path("run.ckpt"), data=Path("data"))  # a path among the hyperparameters is harmless
    network = load_network(f"{nets}:three", weights="run.ckpt", labels=["a", "b", "c"], size=8)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in network.original.state_dict().items())
    assert (network.channels, network.labels) == (1, ("a", "b", "c"))


def test_commands_load_a_factory_with_labels(
    nets: str, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, sentence: Any
) -> None:
    Path("names.txt").write_text("ant\nbee\ncow\n")
    own = ["--network", f"{nets}:three", "--network.labels", "names.txt", "--network.size", "8"]
    lit_viz("classes", "be", *own)
    assert capsys.readouterr().out.split() == ["1", "bee"]
    lit_viz("layers", f"{nets}:three", "--network.size", "8")
    assert "features.0" in capsys.readouterr().out
    lit_viz("layers", f"{nets}:three", "features", "--network.size", "8", expect=1)
    assert "takes no more words, got 'features'" in sentence(capsys)
    lit_viz("classes", "be", *own, "--network.sise", "8", expect=1)
    assert "did you mean --network.size" in sentence(capsys)
    few = ["--iterations", "2", "--views", "1", "--wandb", "disabled"]
    lit_viz("visualize", "bee", *own, "--network.mean", "0.5", "--network.std", "0.5", *few, "--out", "run")
    assert records(Path("run"))[0]["target_name"] == "bee"
    assert yaml.safe_load(Path("run/config.yaml").read_text())["network"]["mean"] == [0.5]
    lit_viz("resume", "run")


def test_random_networks_are_reproducible_and_noted_as_untrained(nets: str) -> None:
    first = load_network(f"{nets}:three", size=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # as another process may have it
        again = load_network(f"{nets}:three", size=8)
    for one, other in zip(first.original.parameters(), again.original.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any("give trained ones by weights=FILE" in note for note in first.notes)


def test_preprocessing_of_hugging_face_networks_is_used(nets: str) -> None:
    network = load_network(f"{nets}:hugging")
    assert (network.size, network.labels) == ((8, 8), ("cat", "dog", "emu"))
    assert network.scores(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_a_network_in_train_mode_is_evaluated_in_eval_mode_and_preserved(nets: str) -> None:
    network = load_network(f"{nets}:three", size=8)
    network.original.train()
    before = {key: tensor.clone() for key, tensor in network.original.state_dict().items()}
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(network.scores(x), network.scores(x))  # no dropout
    assert network.original.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.original.state_dict().items())


def test_a_head_of_other_classes_in_a_named_architecture(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "tuned.pth")
    network = load_network("timm/test_resnet", weights=tmp_path / "tuned.pth", labels=["ant", "bee", "cow"])
    assert network.labels == ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("{}", "must name a function that builds the network, such as {}:build"),
        ("{}.py:three", "name it as a module, {}:three, in the folder of {}.py"),
        ("nowhere_at_all:three", "run the command in the folder of its file, now {cwd}"),
        ("{}:Net", "missing a required argument: 'classes'): name a function such as def build(): return Net"),
        ("{}:ending", "ends in softmax, but must return logits: remove its last layer"),
        ("{}:three", "the input size of {}:three is required: give the size"),
    ],
)
def test_wrong_names_are_rejected_with_a_suggestion(nets: str, named: str, message: str) -> None:
    with pytest.raises(LitVizError) as error:
        load_network(named.replace("{}", nets), **({"size": 8} if named != "{}:three" else {}))
    assert message.replace("{}", nets).replace("{cwd}", str(Path.cwd())) in str(error.value)


def test_mismatched_weights_are_rejected_with_a_suggestion(nets: str) -> None:
    other = load_network(f"{nets}:hugging").original
    torch.save({f"net.{key}": tensor for key, tensor in other.state_dict().items()}, "prefixed.pth")
    load_network(f"{nets}:three", weights="prefixed.pth", size=8)
    torch.save({**other.state_dict(), "head.weight": torch.rand(5, 144), "head.bias": torch.rand(5)}, "five.pth")
    with pytest.raises(LitVizError, match=r"head.weight is \(5, 144\) in the file .*: build it as it was trained$"):
        load_network(f"{nets}:three", weights="five.pth", size=8)
    torch.save({**other.state_dict(), "neck.weight": torch.rand(1)}, "more.pth")
    with pytest.raises(LitVizError, match=r"not in the network: neck.weight: give the network that was trained"):
        load_network(f"{nets}:three", weights="more.pth", size=8)
    saved(other, Path("objects.ckpt"), data=SimpleNamespace())
    with pytest.raises(LitVizError, match=r"if you trust it, load it by torch.load\(FILE, weights_only=False\)"):
        load_network(f"{nets}:three", weights="objects.ckpt", size=8)


def test_a_gray_file_has_the_norm_of_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey file that is read back in three colours would change by sqrt(3) times as much."""
    from lit_viz.engine.snapshots import Result
    from lit_viz.figures.attack import attack_figure
    from lit_viz.images.reading import encode_png
    from lit_viz.runs.memory import MemoryStorage
    from lit_viz.runs.records import AdversarialRecord
    from lit_viz.types import Task

    source, fooled = torch.full((1, 8, 8), 100 / 255), torch.full((1, 8, 8), 110 / 255)
    for name, image in (("a", source), ("b", fooled)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(image))
    record = AdversarialRecord(index=0, name="grey", attack="pgd", success_file=True)
    (outcome,) = MemoryStorage([Result(Task(0, "grey", 0), record)]).outcomes()
    monkeypatch.setattr(outcome, "pictures", lambda: (tmp_path / "a.png", tmp_path / "b.png"))
    figure = attack_figure([outcome])
    assert any(text.get_text() == "L2 0.314 · L∞ 10/255" for text in figure.texts)  # 8 * 10 / 255


# -- the page


PAGE = Path(__file__).parents[1] / "docs" / "own_network.md"


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the page's code blocks as (file to write or ``run``, content), in order."""
    found = []
    for part in text.split("<!-- test: ")[1:]:
        name, _, rest = part.partition(" -->\n```")
        found.append((name, rest.partition("\n")[2].partition("\n```")[0]))
    return found


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, records: Any) -> None:
    """In a folder of its own, by the installed script, as a user would."""
    script = shutil.which("lit-viz", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("lit-viz is not installed in this environment")
    for name, content in blocks(PAGE.read_text(encoding="utf-8")):
        if name != "run":
            (tmp_path / name).write_text(content)
            continue
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "-euo", "pipefail", "-c", content]
        environment = {**os.environ, "PATH": path, "WANDB_MODE": "offline"}
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    drawn = [record for run in ("digits", "fooled", "maps") for record in records(tmp_path / "runs" / run)]
    assert {record["status"] for record in drawn} == {"done"}
    assert min(record["probability"] for record in records(tmp_path / "runs" / "digits")) > 0.9
    assert all(record["success_file"] for record in records(tmp_path / "runs" / "fooled"))
