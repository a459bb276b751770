"""One dummy of each kind of part, added to a copy of the project by the files that a row of CONTRIBUTING.md names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

#: After which imports are inserted.
TOP = "from __future__ import annotations\n\n"


@dataclass(frozen=True)
class Dummy:
    """A part that is added.

    Attributes:
        kind: first cell of its row in CONTRIBUTING.md.
        name: replaces ``<name>`` in the files of the row.
        written: texts of new files, by their path in the project.
        inserted: texts that are inserted into a file, each by the text that it follows, in its first place.
    """

    kind: str
    name: str
    written: Mapping[str, str]
    inserted: Mapping[str, Mapping[str, str]]

    @property
    def files(self) -> set[str]:
        """The files that it creates or changes."""
        return {*self.written, *self.inserted}

    def apply(self, root: Path) -> None:
        """Add the part to a copy of the project.

        Raises:
            ValueError: a file does not contain the text before, or a new file exists.
        """
        for file, text in self.written.items():
            if (root / file).exists():
                raise ValueError(f"{file} exists")
            (root / file).write_text(dedent(text).lstrip(), encoding="utf-8")
        for file, texts in self.inserted.items():
            content = (root / file).read_text(encoding="utf-8")
            for after, text in texts.items():
                before, found, rest = content.partition(after)
                if not found:
                    raise ValueError(f"{file} does not contain {after!r}")
                content = before + found + text + rest
            (root / file).write_text(content, encoding="utf-8")


def rows(page: str) -> dict[str, str]:
    """Return the rows of the table in "Extending lit_viz" by their first cell."""
    table = page.partition("| to add |")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        kind, _, cells = line.removeprefix("| ").partition(" | ")
        found[kind] = cells
    return found


def files_of(row: str, name: str) -> set[str]:
    """Return the files that a row names, for a part of this name."""
    return {file.replace("<name>", name) for file in re.findall(r"`([\w<>./-]+\.\w+)`", row)}


ATTACK = Dummy(
    "an attack",
    "dummy_attack",
    {
        "lit_viz/attacks/dummy_attack.py": '''
            """PGD of a fixed start."""

            from lit_viz.attacks.norms import NormName
            from lit_viz.attacks.pgd import PGD


            class DummyAttack(PGD):
                """Projected gradient descent from the photograph.

                Args:
                    norm, eps: see :class:`~lit_viz.attacks.base.ClimbingAttack`.
                """

                def __init__(self, norm: NormName = "linf", eps: float | str | None = None) -> None:
                    super().__init__(norm, eps, random_start=False)
        ''',
    },
    {
        "lit_viz/attacks/__init__.py": {
            TOP: "from lit_viz.attacks.dummy_attack import DummyAttack\n",
            '    "universal": Universal,\n': '    "dummy_attack": DummyAttack,\n',
            '    "DeepFool",\n': '    "DummyAttack",\n',
        },
        "tests/attacks/test_contract.py": {
            "    DeepFool,\n": "    DummyAttack,\n",
            "Square(eps=0.1, early_stop=False),\n": '    "dummy": lambda: DummyAttack(eps=0.05),\n',
        },
    },
)

SALIENCY_METHOD = Dummy(
    "a saliency method",
    "dummy_map",
    {
        "lit_viz/attributions/dummy_map.py": '''
            """The absolute gradient."""

            from torch import Tensor

            from lit_viz.attributions.gradient import Gradient
            from lit_viz.optim import State


            class DummyMap(Gradient):
                """``|d score / d x|``."""

                title = "Dummy"

                def attribution(self, x: Tensor, state: State) -> Tensor:
                    return state["map"].abs()
        ''',
    },
    {
        "lit_viz/attributions/__init__.py": {
            TOP: "from lit_viz.attributions.dummy_map import DummyMap\n",
            '    "rise": RISE,\n': '    "dummy_map": DummyMap,\n',
            '    "DeepLift",\n': '    "DummyMap",\n',
        },
        "lit_viz/evidence/saliency/captum_reference.py": {
            "COUNTERPARTS: dict[type[own.Attribution], Counterpart] = {\n": """    own.DummyMap: Counterpart(
        "Saliency", "absolute map", lambda r: attr.Saliency(r.given).attribute(r.x, r.target)
    ),
"""
        },
        "docs/saliency.md": {"see its configuration | |\n": "| `dummy_map` | the absolute gradient | 1 FB | |\n"},
        "tests/attributions/test_estimators.py": {
            TOP: "from lit_viz.attributions.dummy_map import DummyMap\n",
            '    "rise": lambda: RISE(grid=4),\n': '    "dummy": DummyMap,\n',
        },
    },
)

OBJECTIVE = Dummy(
    "an objective",
    "dummy_objective",
    {
        "lit_viz/objectives/dummy_objective.py": '''
            """Half of the logit."""

            from torch import Tensor

            from lit_viz.objectives.base import Outputs
            from lit_viz.objectives.classes import ClassScore


            class DummyObjective(ClassScore):
                """Half of the logit of the class.

                Args:
                    target, gamma: see :class:`ClassScore`.
                """

                def __call__(self, outputs: Outputs) -> Tensor:
                    return self._pick(outputs.logits, outputs) / 2
        ''',
        "tests/objectives/test_dummy_objective.py": '''
            """Half of the logit."""

            import torch

            from lit_viz.objectives import Logit, Outputs
            from lit_viz.objectives.dummy_objective import DummyObjective


            def test_half_of_the_logit() -> None:
                outputs = Outputs(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
                assert torch.equal(2 * DummyObjective()(outputs), Logit()(outputs))
        ''',
    },
    {
        "lit_viz/objectives/__init__.py": {
            " Outputs, Product, Sum\n": "from lit_viz.objectives.dummy_objective import DummyObjective\n",
            '    "probability": Probability,\n': '    "dummy": DummyObjective,\n',
            '    "Diversity",\n': '    "DummyObjective",\n',
        },
        "tests/test_golden.py": {
            "OBJECTIVES: dict[str, Make] = {\n": '    "dummy objective": lambda: objectives.DummyObjective(),\n'
        },
    },
)

TRANSFORM = Dummy(
    "a transform",
    "dummy_transform",
    {
        "lit_viz/images/dummy_transform.py": '''
            """Random brightness."""

            from dataclasses import dataclass

            from torch import Tensor

            from lit_viz.images.transforms import Transform
            from lit_viz.rng import Draws


            @dataclass(frozen=True)
            class DummyTransform(Transform, purpose="DummyTransform"):
                """Random offset of all values of an image.

                Args:
                    most: offsets are uniform in [-most, most].
                """

                most: float = 0.1

                def __call__(self, images: Tensor, draws: Draws) -> Tensor:
                    return images + draws.uniform("offset", -self.most, self.most, (1, 1, 1)).to(images)
        ''',
    },
    {
        "lit_viz/images/__init__.py": {
            "from lit_viz.images.canvas import Canvas\n": "from lit_viz.images.dummy_transform import DummyTransform\n",
            '    "DiverseInput",\n': '    "DummyTransform",\n',
        },
        "tests/images/test_transforms.py": {
            "    DiverseInput,\n": "    DummyTransform,\n",
            "    Noise(0.1),\n": "    DummyTransform(),\n",
        },
        "tests/test_golden.py": {
            '    "blur": lambda: images.Blur(0.5, 1.5),\n': '    "dummy transform": lambda: images.DummyTransform(),\n'
        },
    },
)

PARAMETERIZATION = Dummy(
    "a parameterization",
    "dummy_parameterization",
    {
        "lit_viz/images/dummy_parameterization.py": '''
            """Negatives."""

            from dataclasses import dataclass

            from torch import Tensor

            from lit_viz.images.canvas import Canvas
            from lit_viz.images.parameterizations import Parameterization
            from lit_viz.rng import Draws


            @dataclass(frozen=True)
            class DummyParameterization(Parameterization):
                """Values of the negative; its start is uniform noise."""

                def start(self, draws: Draws, canvas: Canvas) -> Tensor:
                    return draws.uniform("start", 0.0, 1.0, canvas.shape)

                def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
                    return 1 - images

                def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
                    return 1 - x
        ''',
    },
    {
        "lit_viz/images/__init__.py": {
            "canvas import Canvas\n": "from lit_viz.images.dummy_parameterization import DummyParameterization\n",
            "dict[str, type[Parameterization]] = {": '"dummy": DummyParameterization, ',
            '    "DiverseInput",\n': '    "DummyParameterization",\n',
        },
        "tests/images/test_parameterizations.py": {
            TOP: "from lit_viz.images.dummy_parameterization import DummyParameterization\n",
            "ALL = [": "DummyParameterization(), ",
        },
        "tests/test_golden.py": {
            "PARAMETERIZATIONS: dict[str, Make] = {\n": '    "dummy": lambda: images.DummyParameterization(),\n'
        },
    },
)

STEP_RULE = Dummy(
    "a step rule",
    "dummy_rule",
    {
        "lit_viz/optim/dummy_rule.py": '''
            """Ascent by twice the gradient."""

            from torch import Tensor

            from lit_viz.optim.ascent import GradientAscent
            from lit_viz.optim.rule import LearningRate


            class DummyRule(GradientAscent):
                """``x <- x + 2 * lr * g``.

                Args:
                    lr: half of the learning rate, a number or a schedule.
                """

                def __init__(self, lr: float | LearningRate = 0.05) -> None:
                    super().__init__(lr)

                def direction(self, gradient: Tensor) -> Tensor:
                    return 2 * gradient
        ''',
    },
    {
        "lit_viz/optim/__init__.py": {
            " NormalizedAscent, RMSprop\n": "from lit_viz.optim.dummy_rule import DummyRule\n",
            "RULES: dict[str, type[StepRule]] = {": '"dummy": DummyRule, ',
            '    "Cosine",\n': '    "DummyRule",\n',
        },
        "tests/optim/test_rules.py": {
            TOP: "from lit_viz.optim.dummy_rule import DummyRule\n",
            '    "forward_only": HillClimb,\n': '    "dummy": DummyRule,\n',
        },
        "tests/test_golden.py": {"STEP_RULES: dict[str, Make] = {\n": '    "dummy rule": lambda: optim.DummyRule(),\n'},
    },
)

METHOD = Dummy(
    "a method",
    "dummy_method",
    {
        "lit_viz/methods/dummy_method.py": '''
            """Class images of another title."""

            from lit_viz.methods.class_visualization import ClassVisualization


            class DummyMethod(ClassVisualization):
                """Class images.

                Args:
                    network, arguments: see :class:`~lit_viz.methods.ClassVisualization`.
                """

                presentation = "lit_viz.presentations.dummy_method.DummyMethodPresentation"
                verifier = "lit_viz.evidence.dummy_method.DummyMethodVerifier"
        ''',
        "lit_viz/evidence/dummy_method.py": '''
            """Evidence of the dummy."""

            from lit_viz.evidence.class_visualization import ClassVisualizationVerifier


            class DummyMethodVerifier(ClassVisualizationVerifier):
                """Compute the evidence of class images."""
        ''',
        "lit_viz/presentations/dummy_method.py": '''
            """Presentation of the dummy."""

            from typing import ClassVar

            from lit_viz.presentations.class_visualization import ClassVisualizationPresentation


            class DummyMethodPresentation(ClassVisualizationPresentation):
                """Presentation of dummies."""

                title: ClassVar[str] = "Dummies"
        ''',
        "tests/methods/test_dummy_method.py": '''
            """The dummy is presented by its own title."""

            from pathlib import Path

            import lit_viz as lv


            def test_the_report_has_its_title(smooth: lv.Network, tmp_path: Path) -> None:
                module = lv.DummyMethod(smooth, iterations=2)
                run = lv.run(module, lv.ClassTasks(smooth, [1]), out=tmp_path / "run", logger="none")
                assert "Dummies" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
                assert lv.check(run.folder, smooth)
        ''',
    },
    {
        "lit_viz/methods/__init__.py": {
            "import ClassVisualization\n": "from lit_viz.methods.dummy_method import DummyMethod\n",
            "__all__ = [": '"DummyMethod", ',
        },
        "lit_viz/__init__.py": {
            "    from lit_viz.launch.run import Run\n": "    from lit_viz.methods import DummyMethod\n",
            '    "lit_viz.methods": (': '"DummyMethod", ',
            '    "ClassVisualization",\n': '    "DummyMethod",\n',
        },
        "tests/test_golden.py": {
            "    return parameterization_case(images.MACO(str(tmp_path), contrast=1.2))\n\n\n": """
def dummy_in_a_folder(tmp_path: Path) -> Any:
    module = methods.DummyMethod(wrapped(16), iterations=3)
    lv.run(module, lv.ClassTasks(module.network, [1]), out=tmp_path / "run", logger="none")
    return folder_result(tmp_path / "run")


""",
            "COMMAND_CASES: dict[str, Callable[[Path], Any]] = {\n": '    "dummy, run folder": dummy_in_a_folder,\n',
            "RECORDS = {\n": '    "dummy": "DummyMethod",\n',
        },
    },
)

LOGGER = Dummy(
    "a logger",
    "json",
    {
        "lit_viz/loggers/json.py": '''
            """JSON: a line per row."""

            import json
            import shutil
            from collections.abc import Mapping
            from pathlib import Path

            from pytorch_lightning.loggers import CSVLogger

            from lit_viz.loggers.base import FILE_SECONDS, CaptionedImage, ImageAdapter, LoggerSettings
            from lit_viz.runs.folder import FolderStorage
            from lit_viz.utils.formatting import Notify


            class JSONAdapter(ImageAdapter):
                """Lines of ``rows.jsonl`` in the folder of a logger."""

                call_seconds = end_seconds = FILE_SECONDS

                def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
                    """Add a line; images are left out."""
                    folder = Path(self.logger.experiment.log_dir)  # creates it
                    with (folder / "rows.jsonl").open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps({self.axis or "step": step, **metrics}) + "\\n")


            def open_adapter(folder: FolderStorage, settings: LoggerSettings, notify: Notify) -> ImageAdapter:
                """Return the adapter of a run folder, whose earlier files are deleted."""
                shutil.rmtree(folder.path / "json", ignore_errors=True)
                return JSONAdapter(CSVLogger(folder.path, name="json", version=""), "iteration")
        ''',
        "tests/loggers/test_json.py": '''
            """JSON."""

            import json
            from pathlib import Path

            import lit_viz as lv


            def test_rows_are_read_back(smooth: lv.Network, tmp_path: Path) -> None:
                lv.visualize(smooth, 1, iterations=2, curve_at="every:1", out=tmp_path / "run", logger="json")
                lines = (tmp_path / "run" / "json" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
                assert {json.loads(line)["iteration"] for line in lines} == {0, 1, 2}
        ''',
    },
    {
        "lit_viz/loggers/__init__.py": {
            '"CSVLogger", "CSVAdapter"),\n': '    "json": Registration("JSON", "JSONLogger", "JSONAdapter"),\n'
        },
        "lit_viz/launch/execute.py": {"``wandb,tensorboard,mlflow": ",json"},
        "lit_viz/api.py": {"to: one or several of ``wandb``": ", ``json``"},
        "docs/options.md": {
            " | at the end |\n| --- | --- | --- | --- |\n": "| `json` | `json/` | lines of `rows.jsonl` | summary |\n"
        },
        "pyproject.toml": {'tensorboard = ["tensorboard>=2.15"]\n': "json = []\n"},
    },
)

OUTPUT = Dummy(
    "an output",
    "dummy_output",
    {
        "lit_viz/outputs/dummy_output.py": '''
            """Mean of all that a network returns."""

            from typing import Any

            from torch import Tensor

            from lit_viz.networks.outputs import Output, checked_scores


            class DummyOutput(Output):
                """Mean of the returned tensor, ``(N, 1)``."""

                decision = "number"
                unit = "mean"

                def scores(self, returned: Any, images: int) -> Tensor:
                    return checked_scores(returned.flatten(1).mean(1), images, "output DummyOutput")
        ''',
        "tests/outputs/test_dummy_output.py": '''
            """The mean of all values."""

            import torch

            import lit_viz as lv
            from lit_viz.outputs.dummy_output import DummyOutput


            def test_gradients_equal_autograd() -> None:
                torch.manual_seed(0)
                network, x = torch.nn.Conv2d(3, 2, 5), torch.rand(2, 3, 16, 16, requires_grad=True)
                (expected,) = torch.autograd.grad(network(x).mean((1, 2, 3)).sum(), x)
                net = lv.load_network(network, output=DummyOutput(), size=16, mean=0.0, std=1.0)
                (gradient,) = torch.autograd.grad(net(x).sum(), x)
                torch.testing.assert_close(gradient, expected)
        ''',
    },
    {
        "lit_viz/outputs/loading.py": {
            TOP: "from lit_viz.outputs.dummy_output import DummyOutput\n",
            '    "keypoint": Keypoint,\n': '    "dummy": DummyOutput,\n',
        },
        "lit_viz/outputs/__init__.py": {
            TOP: "from lit_viz.outputs.dummy_output import DummyOutput\n",
            '    "Detection",\n': '    "DummyOutput",\n',
        },
        "docs/any_network.md": {
            "|---|---|---|---|\n": "| `DummyOutput()` | anything | mean of the return value | number |\n",
            "Its network is small or untrained; put yours in its place.\n\n": """The mean of all values:

```python
import lit_viz as lv
import torch
from lit_viz.outputs import DummyOutput

net = lv.load_network(torch.nn.Conv2d(3, 2, 5), output=DummyOutput(), size=64, mean=0.5, std=0.5)
run = lv.saliency(net, "packaged:astronaut")
```

""",
        },
    },
)

READER = Dummy(
    "a reader of detections",
    "dummy_reader",
    {
        "lit_viz/outputs/dummy_reader.py": '''
            """Detections of points, with a box of a pixel each."""

            from typing import Any

            import torch
            from torch import Tensor


            def read_points(returned: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
                """Return boxes and log-odds of ``points`` ``(N, M, 2)``, relative to the input, and ``log_odds``."""
                height, width = size
                points = returned["points"] * returned["points"].new_tensor([width, height])
                return torch.cat([points, points + 1], -1), returned["log_odds"]
        ''',
        "tests/outputs/test_dummy_reader.py": '''
            """Points in a box."""

            import torch

            import lit_viz as lv
            from lit_viz.outputs import Detection


            class DummyPoints(torch.nn.Module):
                def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                    points = torch.tensor([[0.5, 0.25], [0.0, 0.0]]).to(x)
                    return {"points": points.expand(len(x), -1, -1), "log_odds": x[:, :2, 4, :2] - 0.25}


            def test_the_score_is_that_of_the_point_in_the_box() -> None:
                net = lv.load_network(DummyPoints().eval(), output=Detection((4, 2, 5, 3)), size=8, mean=0.0, std=1.0)
                x = torch.rand(2, 3, 8, 8, requires_grad=True)
                torch.testing.assert_close(net.scores(x), x[:, 0, 4, :2].detach() - 0.25)
                (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
                expected = torch.zeros_like(x)
                expected[:, 0, 4, 1] = 1
                torch.testing.assert_close(gradient, expected)
        ''',
    },
    {
        "lit_viz/outputs/detection.py": {
            TOP: "from lit_viz.outputs.dummy_reader import read_points\n",
            "            return read_dense_head\n": """        if isinstance(returned, dict) and "points" in returned:
            return read_points
""",
        },
        "docs/any_network.md": {"RF-DETR of transformers; heads `(N, 4 + K, M)`": "; dummies"},
    },
)

PROBE = Dummy(
    "a probe",
    "dummy_probe",
    {
        "lit_viz/callbacks/dummy_probe.py": '''
            """Saliency maps under another name."""

            from lit_viz.callbacks.probes import SaliencyProbe


            class DummyProbe(SaliencyProbe):
                """Saliency maps.

                Args:
                    images, every_n_epochs, method, options: see :class:`SaliencyProbe`.
                """

                name = "dummy"
        ''',
    },
    {
        "lit_viz/callbacks/__init__.py": {
            "if TYPE_CHECKING:\n": "    from lit_viz.callbacks.dummy_probe import DummyProbe\n",
            '    "ClassVisualizationProbe": "probes",\n': '    "DummyProbe": "dummy_probe",\n',
            '    "ClassVisualizationProbe",\n': '    "DummyProbe",\n',
        },
        "docs/api/callbacks.md": {
            "autofunction:: lit_viz.loggers.adapter\n": ".. autoclass:: lit_viz.callbacks.DummyProbe\n   :no-members:\n"
        },
        "docs/probes.md": {
            " | logged metrics |\n|---|---|---|\n": "| `DummyProbe(images)` | `probe/saliency/0000` | |\n"
        },
        "tests/callbacks/test_probes.py": {
            "eps=0.1, limit=3, **options),\n": "        lv.callbacks.DummyProbe(loader, limit=1, **options),\n"
        },
    },
)

ZOO_NETWORK = Dummy(
    "a network of the zoo",
    "fashion_dummy",
    {},
    {
        "lit_viz/zoo/networks.py": {
            "        head=nn.Linear(100, classes),\n    )\n    return nn.Sequential(layers)\n": '''

def fashion_dummy(classes: int = 10) -> nn.Module:
    """Build the network of :func:`fashion_cnn` again."""
    return fashion_cnn(classes)
'''
        },
        "lit_viz/zoo/cards.py": {
            TOP: "from lit_viz.zoo.networks import fashion_dummy\n",
            "_BUILDERS: Mapping[str, Callable[[int], nn.Module]] = {\n": '    "fashion_dummy": fashion_dummy,\n',
        },
        "scripts/zoo.py": {
            "ARCHITECTURES = {\n": '    "fashion_dummy": "as fashion_cnn",\n',
            "RECIPES = {\n": '    "fashion_dummy": Recipe("fashion", 1),\n',
        },
        "tests/zoo/test_trained.py": {"ACCURACY = {\n": '    "fashion_dummy": {"clean": 0.9},\n'},
    },
)


#: A dummy of each kind.
DUMMIES = (
    ATTACK,
    SALIENCY_METHOD,
    OBJECTIVE,
    TRANSFORM,
    PARAMETERIZATION,
    STEP_RULE,
    METHOD,
    LOGGER,
    OUTPUT,
    READER,
    PROBE,
    ZOO_NETWORK,
)
