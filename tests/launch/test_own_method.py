"""A method with a record, evidence, a presentation, options and a command of its own, all of them in this file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.engine.evaluator import Evaluator
from lit_viz.engine.snapshots import Snapshot
from lit_viz.errors import require
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.layout import Cell, Grid, compose, pixels
from lit_viz.images.sources import Images
from lit_viz.launch.methods import run_method
from lit_viz.launch.run import Run
from lit_viz.launch.specs import METHODS, MethodSpec
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.objectives import Logit
from lit_viz.optim import Evaluate, Evaluation, State, StepRule
from lit_viz.presentations import EvidenceItem, FigureOptions, Presentation, TableRow
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.results import Outcome
from lit_viz.types import Item, JsonObject, Record, Task
from tests.support.segments import lose

HERE = __name__


class Fade(StepRule):
    """Blend each photograph with gray, until its class is no longer predicted.

    Args:
        gray: value of the gray, in [0, 1].
    """

    backwards_per_step = 0

    def __init__(self, gray: float) -> None:
        self.gray = gray

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {"source": x.clone(), "label": torch.tensor([task.label for task in tasks])}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        done = evaluate(x, gradient=False).logits.argmax(1) != state["label"]
        share = ((state["iteration"] + 1) / state["iterations"]).float().view(-1, 1, 1, 1)
        faded = state["source"] + (self.gray - state["source"]) * share
        return torch.where(done.view(-1, 1, 1, 1), x, faded), state, done


class FadedRecord(Record, kind="faded"):
    """A faded photograph, with the class that is predicted of its file, and the share of gray."""

    predicted: int | None = None
    share = Item[float]("metrics")


class FadedPhotograph(PhotographTraining):
    """Fade photographs.

    Args:
        network: frozen network.
        gray: value of the gray, in [0, 1].
        iterations, slots, log_at: see :class:`~lit_viz.engine.method.Method`.
    """

    presentation = f"{HERE}.FadedPresentation"
    verifier = f"{HERE}.FadedVerifier"

    def __init__(
        self,
        network: Network | nn.Module | str,
        *,
        gray: float = 0.5,
        iterations: int = 16,
        slots: int = 4,
        log_at: str = "every:4",
        images: Sequence[Tensor] = (),
    ) -> None:
        require(0 <= gray <= 1, "gray must be in [0, 1]", gray)
        super().__init__(network, Fade(gray), iterations=iterations, slots=slots, log_at=log_at, images=images)

    def prepare(self, device: torch.device) -> None:
        networks = {"plain": self.make_network((), device)}
        self._evaluator = Evaluator(networks, Logit(), self.network.normalize)

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        return self._evaluator(x, self.slots, rows, gradient=gradient)

    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        snapshots: list[Snapshot] = []
        for image, n in zip(x, rows, strict=True):
            share = self.slots.iteration[n] / self.iterations
            fields = {"source": self.slots.state["source"][n]} if final else {}
            snapshots.append(self.snapshot(n, {"share": share}, image, **fields))
        return snapshots

    def new_record(self, task: Task, **fields: Any) -> FadedRecord:
        return FadedRecord.of(task, **fields)

    def record(self, n: int, snapshot: Snapshot, common: Record) -> FadedRecord:
        assert snapshot.image is not None
        predicted = int(self.network.scores_alone(_as_file(snapshot.image)[None]).argmax())
        return FadedRecord.extend(common, predicted=predicted)


def _as_file(image: Tensor) -> Tensor:
    return image.mul(255).round() / 255


class FadedFiles(JsonObject):
    """Files that were read, and those that are predicted as recorded."""

    read: int
    same: int


class FadedEvidence(Evidence):
    """The evidence of faded photographs."""

    faded: FadedFiles | None = None


class FadedVerifier(OutcomeVerifier[FadedPhotograph, FadedRecord, FadedEvidence]):
    """Read the files again, and compare their predictions with the records."""

    evidence_class: ClassVar[type[FadedEvidence]] = FadedEvidence

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        return {} if self.storage.path is None else {"faded": self._verify}

    def _verify(self) -> EvidencePart:
        same = 0
        for outcome in self.done:
            image = outcome.image()
            assert image is not None
            same += int(self.module.network.scores_alone(image[None]).argmax()) == outcome.record.predicted
        files = FadedFiles(read=len(self.done), same=same)
        return EvidencePart(FadedEvidence(faded=files), same == len(self.done))


class FadedPresentation(Presentation[FadedRecord, FadedEvidence]):
    """Faded photographs."""

    title: ClassVar[str] = "Faded photographs"
    command: ClassVar[str] = "fade"
    result: ClassVar[str] = "faded photograph"

    def table(self, records: Sequence[FadedRecord]) -> list[TableRow]:
        return [{"photograph": record.name, "gray": f"{record.share or 0:.0%}"} for record in records]

    def figure(
        self, outcomes: Sequence[Outcome[FadedRecord]], options: FigureOptions, evidence: FadedEvidence | None = None
    ) -> Figure:
        images = [outcome.image() for outcome in outcomes]
        return compose(Grid([[Cell(pixels(image), [], 1.0) for image in images if image is not None]]))

    def part_items(self, evidence: FadedEvidence) -> list[EvidenceItem]:
        items = super().part_items(evidence)
        if evidence.faded is not None:
            read, same = evidence.faded.read, evidence.faded.same
            text = f"{same} of {read} faded files are predicted as recorded."
            items.append(EvidenceItem(text, same == read, name="faded"))
        return items


def fade(network: Network | str, images: Images, *, seed: int | None = None, config: str | None = None,
         out: str | None = None, progress: bool | None = None, **options: Any) -> Run:  # fmt: skip
    """Fade photographs until another class is predicted.

    Args:
        network: the network.
        images: photographs.
        seed: seed of the first photograph.
        config: file with other defaults.
        out: run folder.
        progress: show progress.
        options: other arguments of :class:`FadedPhotograph` and of :func:`lit_viz.run`.
    """
    return run_method("fade", locals())


SPEC = MethodSpec(
    name="fade",
    words="PHOTO ...",
    summary="photographs that fade until another class is predicted",
    example="packaged:chelsea --gray 0.4",
    demo=("packaged:chelsea",),
    modules=(f"{HERE}.FadedPhotograph",),
    function=f"{HERE}.fade",
    what=("images", "seed"),
    shown=frozenset({"gray"}),
)
PHOTOGRAPHS = ("packaged:chelsea", "packaged:coffee", "packaged:rocket")


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "fade", SPEC)
        yield


@pytest.fixture(scope="module")
def made(lit_viz: Callable[..., None], small_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "faded"
    lit_viz("fade", *PHOTOGRAPHS, "--gray", "0.4", "--iterations", "8", "--out", str(out), *small_options)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of a run."""
    return Path(shutil.copytree(made, tmp_path / "faded"))


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_from_the_command_line(folder: Path) -> None:
    records = records_in(folder)
    assert [record["kind"] for record in records] == ["faded"] * 3
    assert all(record["status"] == "done" and record["metrics"]["share"] > 0 for record in records)
    evidence = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["faded"] == {"read": 3, "same": 3}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Faded photographs" in page
    assert "3 of 3 faded files are predicted as recorded." in page
    assert "lit-viz fade" in page
    assert (folder / "figure.png").exists()


def test_it_is_resumed(folder: Path, lit_viz: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    before = records_in(folder)
    lose(folder, 1)
    lit_viz("resume", str(folder))
    assert "photograph  gray" in capsys.readouterr().out
    after = records_in(folder)
    assert [record["metrics"] for record in after] == [record["metrics"] for record in before]
    lit_viz("resume", str(folder), "--gray", "0.3", expect=1)


def test_it_is_checked(folder: Path, lit_viz: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    lit_viz("check", str(folder))
    assert "evidence: 3 of 3 faded files" in capsys.readouterr().err
    lit_viz("check", str(folder), "--trust", expect=1)


def test_it_is_logged_and_its_state_is_stated(
    folder: Path, lit_viz: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    lit_viz("log", str(folder), "--to", "csv")
    assert (folder / "csv").is_dir()
    capsys.readouterr()
    lit_viz("status", str(folder))
    assert "3" in capsys.readouterr().out


def test_help_and_errors(
    lit_viz: Callable[..., None],
    small_options: list[str],
    capsys: pytest.CaptureFixture[str],
    sentence: Callable[[pytest.CaptureFixture[str]], str],
) -> None:
    lit_viz("--help")
    assert "lit-viz fade PHOTO ...  " in capsys.readouterr().out
    lit_viz("fade", "--help")
    text = capsys.readouterr().out
    assert "--gray GRAY" in text
    assert "value of the gray, in [0, 1]." in text
    lit_viz("fade", "packaged:chelsea", "--grey", "0.4", *small_options, expect=1)
    assert "did you mean --gray" in sentence(capsys)
    lit_viz("fade", "no/such.jpg", *small_options, expect=1)
    assert "no/such.jpg" in sentence(capsys)
    lit_viz("fade", "packaged:chelsea", "--captum", "none", *small_options, expect=1)
    assert "does not apply to faded photographs" in sentence(capsys)


def test_the_number_of_evaluations_and_the_configuration(
    lit_viz: Callable[..., None], small_options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lit_viz("fade", *PHOTOGRAPHS, "--count", *small_options)
    assert "3 images" in capsys.readouterr().out
    lit_viz("fade", *PHOTOGRAPHS, "--gray", "0.25", "--print-config", *small_options)
    config = tmp_path / "own.yaml"
    config.write_text(capsys.readouterr().out, encoding="utf-8")
    out = tmp_path / "again"
    lit_viz("fade", "packaged:chelsea", "--config", str(config), "--iterations", "8", "--out", str(out))
    assert "gray: 0.25" in (out / "config.yaml").read_text(encoding="utf-8")


def test_its_short_function_and_the_module_are_the_same(smooth: Network) -> None:
    by_name = fade(smooth, "packaged:chelsea", gray=0.4, iterations=8)
    by_objects = lv.run(FadedPhotograph(smooth, gray=0.4, iterations=8), lv.ImageTasks(smooth, "packaged:chelsea"))
    assert torch.equal(by_name.images, by_objects.images)
    with pytest.raises(lv.LitVizError, match="did you mean 'gray'"):
        fade(smooth, "packaged:chelsea", grey=0.4)


def test_its_shards_are_merged_and_compared(
    folder: Path,
    lit_viz: Callable[..., None],
    small_options: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    words = ["fade", *PHOTOGRAPHS, "--gray", "0.4", "--iterations", "8", *small_options]
    for shard in ("0/2", "1/2"):
        lit_viz(*words, "--out", str(tmp_path / "shards"), "--shard", shard)
    lit_viz("merge", str(tmp_path / "shards"), "--out", str(tmp_path / "merged"))
    merged, whole = records_in(tmp_path / "merged"), records_in(folder)
    assert [record["metrics"] for record in merged] == [record["metrics"] for record in whole]
    capsys.readouterr()
    lit_viz("compare", str(folder), "--out", str(tmp_path / "compared"))
    assert "Faded photographs" in capsys.readouterr().out


def test_its_results_are_stored_in_tars(
    lit_viz: Callable[..., None], small_options: list[str], tmp_path: Path, folder: Path
) -> None:
    words = ["fade", *PHOTOGRAPHS, "--gray", "0.4", "--iterations", "8", *small_options]
    lit_viz(*words, "--out", str(tmp_path / "tars"), "--store", "tar")
    lit_viz("check", str(tmp_path / "tars"))
    stored, whole = records_in(tmp_path / "tars"), records_in(folder)
    assert [record["metrics"] for record in stored] == [record["metrics"] for record in whole]
