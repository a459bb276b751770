"""The form of a run: the same objects, names and file in Python, on the command line, in YAML and at resume."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import lit_viz as lv
from lit_viz import attacks, attributions, images, objectives, optim, outputs
from lit_viz.commands import parse_method
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import ArgumentError, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.launch.form import Form
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.launch.options import RunOptions
from lit_viz.launch.resume import changed_form, stored_form
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap, UniversalPerturbation
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Direction, Diversity, Layer, Logit, Neuron, Product, Sum
from lit_viz.optim import Adapted, Constant, Cosine, GradientAscent, NormalizedAscent
from lit_viz.runs.tar_store import open_run
from lit_viz.types import Task
from lit_viz.utils.parts import INSTANCE, Part, construct, plain_arguments
from lit_viz.utils.yaml_files import parse_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


# -- objects and YAML

PACKAGES: tuple[ModuleType, ...] = (attacks, attributions, objectives, optim, images, outputs)
#: Instances of the classes that require arguments.
MADE: dict[type[Part], Callable[[], Part]] = {
    Channel: lambda: Channel("features.3", 3, axis="feature"),
    Direction: lambda: Direction("features.3", torch.tensor([0.1, -2.5, 1 / 3])),
    Diversity: lambda: Diversity("features.3"),
    Layer: lambda: Layer("features.3"),
    Neuron: lambda: Neuron("features.3", 2, place=(1, 2)),
    Product: lambda: Product([Logit(), Channel("features.3", 1)]),
    Sum: lambda: Sum([Logit(), 2 * Diversity("features.3")]),
    Adapted: lambda: Adapted(torch.optim.Adam, 0.01, betas=(0.8, 0.9)),
    Constant: lambda: Constant(0.1),
    Cosine: lambda: Cosine(0.1),
    attributions.FunctionMap: lambda: attributions.FunctionMap("tests.support.networks:smooth_network"),
    GradientAscent: lambda: GradientAscent(0.5),
    NormalizedAscent: lambda: NormalizedAscent(0.5),
    outputs.Embedding: lambda: outputs.Embedding(["packaged:chelsea", "packaged:coffee"]),
    outputs.ReadText: lambda: outputs.ReadText("ab", "abc"),
    outputs.ZeroShot: lambda: outputs.ZeroShot(["cat", "dog"], text_embeddings=torch.eye(2)),
}


def public_parts() -> list[type[Part]]:
    """Return all public classes of parts that have instances."""
    found: dict[type[Part], None] = {}
    for package in PACKAGES:
        names = [name for name in package.__all__ if isinstance(getattr(package, name), type)]
        for name in names:
            kind = getattr(package, name)
            if issubclass(kind, Part) and not inspect.isabstract(kind):
                found[kind] = None
    return list(found)


def read_back(part: Part, base: type) -> Any:
    """Write a part as the argument of a module, and make it again from the text."""
    text = Form(module={"class_path": "own.Module", "init_args": {"part": part}}).to_yaml()
    plain = Form.of_mapping(parse_yaml(text, "text"), "text").module["init_args"]["part"]
    return construct(plain, base, "part")


def is_same(first: Any, second: Any) -> bool:
    """Return whether two arguments are equal: tensors by value, parts by class and arguments."""
    if isinstance(first, Part):
        return type(first) is type(second) and is_same(first.arguments, second.arguments)
    if isinstance(first, Tensor):
        return torch.equal(first, torch.as_tensor(second))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(is_same, first, second))
    return bool(first == second)


def test_all_kinds_of_parts_are_compared() -> None:
    assert len(public_parts()) > 70
    assert set(MADE) <= set(public_parts())


@pytest.mark.parametrize("kind", public_parts(), ids=lambda kind: kind.__name__)
def test_a_part_is_read_back_from_yaml(kind: type[Part]) -> None:
    part = MADE.get(kind, kind)()
    again = read_back(part, kind)
    assert type(again) is kind
    assert is_same(part, again)
    assert plain_arguments(again) == plain_arguments(part)


def test_each_argument_of_a_written_part_differs_from_another_value() -> None:
    """The comparison is not one that all parts pass."""
    vector = torch.tensor([1.0, 2.0])
    assert not is_same(Direction("features.3", vector), Direction("features.3", vector + 1))
    assert not is_same(attacks.PGD(alpha=0.01), attacks.PGD(alpha=0.02))
    assert not is_same(attacks.PGD(), attacks.APGD())


@pytest.mark.parametrize(
    "part",
    [
        attacks.PGD(eps="4/255", alpha=0.01, restarts=3),
        attributions.Occlusion(window=[4, 8], stride=2),
        attributions.GuidedGradCAM(layer="features.3"),
        images.Jitter(3),
        optim.Adam(optim.Cosine(0.2)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_given_arguments_are_read_back(part: Part) -> None:
    assert is_same(part, read_back(part, type(part)))


class Local(Logit):
    """An objective with an argument that no text holds."""

    def __init__(self, function: Any = None) -> None:
        super().__init__()
        self.function = function


@pytest.mark.parametrize(
    "part",
    [Local(lambda x: x), Sum([Logit(), Local(lambda x: x)]), Direction("features.3", torch.ones(5000))],
    ids=["function", "nested", "large tensor"],
)
def test_what_can_not_be_written_says_so(part: Part, smooth: Network, tmp_path: Path) -> None:
    form = Form(module={"class_path": "lit_viz.ClassVisualization", "init_args": {"objective": part}})
    (tmp_path / "own.yaml").write_text(form.to_yaml())
    again = Form.read(tmp_path / "own.yaml")
    name = type(part).__name__
    assert again.module["init_args"]["objective"] == f"{name}{INSTANCE}"
    assert list(again.instances()) == [name]
    with pytest.raises(LitVizError, match=rf"objective.*{name}"):
        again.build_module(smooth)


MODULES: dict[str, Callable[[Network], ImageTraining]] = {
    "class visualization": lambda network: ClassVisualization(
        network,
        objective=Sum([Logit(), Diversity("features.3")]),
        step_rule=optim.Adam(0.02),
        transforms=[images.Jitter(2), images.Noise()],
        priors=[images.TotalVariation()],
        picture=lv.PictureOptions(group=2),
        iterations=3,
    ),
    "saliency map": lambda network: SaliencyMap(
        network, method=[attributions.Gradient(), attributions.Occlusion(window=4)], reducer="sum"
    ),
    "adversarial example": lambda network: AdversarialExample(
        network, attack=attacks.PGD(eps="4/255"), transforms=[images.DiverseInput()], iterations=5
    ),
    "universal perturbation": lambda network: UniversalPerturbation(network, attack=attacks.Universal(), iterations=2),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_back_from_yaml(name: str, smooth: Network) -> None:
    module = MODULES[name](smooth)
    form = Form.of(module, TaskQueue([Task(0, "one", 3)]), RunOptions())
    again = Form.of_mapping(parse_yaml(form.to_yaml(), "text"), "text")
    built = again.build_module(smooth)
    assert type(built) is type(module)
    assert built.network is smooth
    assert built.plain_arguments() == module.plain_arguments()
    assert Form.of(built, again.build_tasks(smooth), RunOptions()) == form


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two images."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(paths):
        picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(number))
        path.write_bytes(encode_png(picture.permute(2, 0, 1)))
    return paths


QUEUES: dict[str, Callable[[Network, list[Path]], TaskQueue]] = {
    "classes": lambda net, _: lv.ClassTasks(net, ["apple", 3], against=[1, 2], vary={"lr": [0.1, 0.2]}, seed=4),
    "a layer": lambda net, _: lv.LayerTasks(net, "features.3"),
    "channels": lambda net, _: lv.LayerTasks(net, "features.3", channel="0,2-3", vary={"iterations": [2, 3]}),
    "files": lambda net, files: lv.ImageTasks(net, files, target="least-likely", vary={"eps": ["1/255", 0.1]}),
    "classes of files": lambda net, files: lv.ImageTasks(net, files, label=["apple", 2], target=[3, "elder"]),
    "tasks": lambda *_: TaskQueue([Task(0, "one", 3), Task(1, "two", 4, target=2, lr=0.5)]),
}


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_read_back_from_yaml(name: str, smooth: Network, files: list[Path]) -> None:
    queue = QUEUES[name](smooth, files)
    form = Form.of(SaliencyMap(smooth), queue, RunOptions())
    again = Form.of_mapping(parse_yaml(form.to_yaml(), "text"), "text").build_tasks(smooth)
    assert type(again) is type(queue)
    assert list(again.tasks) == list(queue.tasks)
    assert Form.of(SaliencyMap(smooth), again, RunOptions()).tasks == form.tasks


def test_a_queue_of_arrays_names_their_places(smooth: Network) -> None:
    queue = lv.ImageTasks(smooth, torch.rand(2, 3, 16, 16), target=[1, 2])
    form = Form.of(SaliencyMap(smooth), queue, RunOptions())
    assert form.tasks["init_args"]["images"] == ["array:0", "array:1"]
    again = Form.of_mapping(parse_yaml(form.to_yaml(), "text"), "text").build_tasks(smooth)
    assert list(again.tasks) == list(queue.tasks)
    with pytest.raises(LitVizError, match="the photographs of this run are arrays: resume it in Python"):
        lv.run(SaliencyMap(smooth), again, captum="none")


# -- names and their places


def form_of(command: str, **names: Any) -> Form:
    """Return a form of a method, with arguments set."""
    module = {
        "visualize": "lit_viz.ClassVisualization",
        "saliency": "lit_viz.SaliencyMap",
        "attack": "lit_viz.AdversarialExample",
    }[command]
    tasks = "lit_viz.ClassTasks" if command == "visualize" else "lit_viz.ImageTasks"
    form = Form(module={"class_path": module, "init_args": {}}, tasks={"class_path": tasks, "init_args": {}})
    for name, value in names.items():
        form.set(name, value)
    return form


def plain(form: Form) -> Any:
    return yaml.safe_load(form.to_yaml())


def test_a_name_goes_to_its_place() -> None:
    form = form_of("attack", attack="pgd", images=["a.png"], target=2, iterations=9, alpha=0.01, out="run", project="p")
    assert plain(form) == {
        "module": {
            "class_path": "lit_viz.AdversarialExample",
            "init_args": {
                "attack": {"class_path": "lit_viz.attacks.PGD", "init_args": {"alpha": 0.01}},
                "iterations": 9,
            },
        },
        "tasks": {"class_path": "lit_viz.ImageTasks", "init_args": {"images": ["a.png"], "target": 2}},
        "run": {"out": "run", "logging": {"project": "p"}},
    }


def test_dotted_names_are_explicit() -> None:
    form = form_of("attack", attack="pgd")
    for name, value in (("attack.eps", 0.1), ("trainer.devices", 2), ("logging.group", "g"), ("network.size", 32)):
        form.set(name, value)
    assert plain(form)["module"]["init_args"]["attack"]["init_args"] == {"eps": 0.1}
    assert form.run == {"trainer": {"devices": 2}, "logging": {"group": "g"}}
    assert form.network == {"size": 32}


def test_a_name_of_several_parts_names_the_dotted_forms() -> None:
    form = form_of("saliency", method="smoothgrad,vargrad")
    with pytest.raises(LitVizError, match=r"sigma is an argument of SmoothGrad and VarGrad: .* method\.smoothgrad\."):
        form.set("sigma", 0.2)
    form.set("method.vargrad.sigma", 0.2)
    methods = plain(form)["module"]["init_args"]["method"]
    assert [part.get("init_args") for part in methods] in ([None, {"sigma": 0.2}], [{}, {"sigma": 0.2}])


@pytest.mark.parametrize("name", ["sigma", "method.sigma", "method.smoothgrad.sigma"])
def test_the_only_method_may_be_named(name: str) -> None:
    form = form_of("saliency", method="smoothgrad", **{name: 0.2})
    assert plain(form)["module"]["init_args"]["method"]["init_args"] == {"sigma": 0.2}
    command = METHODS["saliency"]
    values = parse_method(command, ["packaged:chelsea", "--method", "smoothgrad", f"--{name}", "0.2"])
    assert method_form(command, values).module["init_args"]["method"]["init_args"] == {"sigma": 0.2}


@pytest.mark.parametrize(
    ("name", "value", "varied"),
    [
        ("eps", ["1/255", 0.1], ["1/255", 0.1]),
        ("eps", "1/255,4/255", ["1/255", "4/255"]),
        ("eps", torch.tensor([0.5, 0.25]), [0.5, 0.25]),
        ("vary.target", ["apple", "date"], ["apple", "date"]),
    ],
)
def test_a_list_of_radii_is_a_task_for_each(name: str, value: Any, varied: list[Any]) -> None:
    form = form_of("attack", attack="pgd", **{name: value})
    assert form.tasks["init_args"]["vary"] == {name.removeprefix("vary."): varied}
    assert "eps" not in plain(form)["module"]["init_args"]["attack"].get("init_args", {})


def test_the_default_part_of_a_module_has_arguments(smooth: Network) -> None:
    form = form_of("visualize", gamma=0.5)
    objective = plain(form)["module"]["init_args"]["objective"]
    assert objective == {"class_path": "lit_viz.objectives.Logit", "init_args": {"gamma": 0.5}}


def test_lists_of_rates_and_iterations_are_a_task_for_each() -> None:
    form = form_of("visualize", step_rule="adam", lr=[0.1, 0.2], iterations=[2, 3])
    assert form.tasks["init_args"]["vary"] == {"lr": [0.1, 0.2], "iterations": [2, 3]}
    form.set("lr", 0.3)
    assert plain(form)["module"]["init_args"]["step_rule"]["init_args"] == {"lr": 0.3}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("itrations", "did you mean 'iterations'"),
        ("epsilon", "use eps"),
        ("model__alpha", "did you mean 'alpha'"),
        ("steps", "use iterations"),
        ("targets", "use target"),
        ("check", "use captum"),
        ("photographs", "use images"),
        ("attack.alhpa", "did you mean 'alpha'"),
        ("attck.alpha", "attck.alpha is not an argument"),
        ("devices", "or 'trainer.devices'"),
    ],
)
def test_an_unknown_name_has_a_suggestion(name: str, words: str) -> None:
    form = form_of("attack", attack="pgd")
    with pytest.raises(LitVizError, match=words) as caught:
        form.set(name, 1)
    assert isinstance(caught.value, ArgumentError)
    assert caught.value.argument == name


def test_a_universal_attack_has_its_module() -> None:
    form = form_of("attack", attack="universal")
    assert plain(form)["module"]["class_path"] == "lit_viz.UniversalPerturbation"
    form.set("attack", "pgd")
    assert plain(form)["module"]["class_path"] == "lit_viz.AdversarialExample"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modul: {}", "did you mean 'module'"),
        ("iterations: 3", "has the key iterations"),
        ("module: 3", "module of .* must be a mapping, got 3"),
        ("- 1", "must"),
    ],
)
def test_a_file_of_another_form_is_rejected(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(LitVizError, match=words):
        Form.read(tmp_path / "own.yaml")


# -- the form of a run


def recorded(folder: Path) -> dict[str, Any]:
    """Return the sections of a run's configuration."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values.pop("recorded")
    return values


def test_the_recorded_form_is_read_back(tmp_path: Path, smooth: Network) -> None:
    run = tmp_path / "run"
    lv.attack(
        smooth, torch.rand(2, 3, 16, 16), attack="pgd", eps=["1/255", "9/255"], target=[1, 2], iterations=2, out=run,
        wandb="disabled",
    )  # fmt: skip
    form = Form.read(run / "config.yaml")
    assert form.tasks["init_args"]["vary"] == {"eps": pytest.approx([1 / 255, 9 / 255])}
    lv.visualize(smooth, [1, "date"], iterations=2, views=1, lr=[0.1, 0.2], out=tmp_path / "two", wandb="disabled")
    form = Form.read(tmp_path / "two" / "config.yaml")
    module, tasks = form.build(smooth)
    again = Form.of(module, tasks, form.options())
    assert yaml.safe_load(again.to_yaml()) == recorded(tmp_path / "two")
    assert [task.target for task in tasks.tasks] == [1, 1, 3, 3]


def test_the_command_line_prints_and_reads_the_same_form(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    contents: Any,
    small_options: list[str],
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    words = [
        "attack",
        "packaged:chelsea",
        "--target",
        "2",
        "--attack",
        "pgd",
        "--eps",
        "1/255,8/255",
        "--iterations",
        "2",
    ]
    words += [*small_options, "--out", str(first)]
    lit_viz(*words, "--print-config")
    printed = capsys.readouterr().out
    assert not first.exists()
    lit_viz(*words)
    capsys.readouterr()
    assert yaml.safe_load(printed) == recorded(first)
    lit_viz("attack", "--config", str(first / "config.yaml"), "--out", str(again))
    assert contents(again) == contents(first)
    assert recorded(again)["run"].pop("out") == str(again)
    sections = [{**recorded(folder), "run": None} for folder in (first, again)]
    assert sections[0] == sections[1]
    (tmp_path / "own.yaml").write_text(printed)
    capsys.readouterr()
    lit_viz("attack", "--config", str(tmp_path / "own.yaml"), "--out", str(first), "--print-config")
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


def test_keywords_and_options_make_the_same_form(
    tmp_path: Path, lit_viz: Any, smooth: Network, small_options: list[str]
) -> None:
    by_option, by_keyword = tmp_path / "option", tmp_path / "keyword"
    words = ["saliency", "packaged:chelsea", "--method", "gradient,occlusion", "--method.occlusion.window", "8"]
    words += ["--target", "2", "--captum", "none", "--seed", "3"]
    lit_viz(*words, *small_options, "--out", str(by_option))
    lv.saliency(
        smooth, "packaged:chelsea", method=["gradient", "occlusion"], target=2, captum="none", seed=3, out=by_keyword,
        wandb="disabled", **{"method.occlusion.window": 8},
    )  # fmt: skip
    for section in ("module", "tasks"):
        assert recorded(by_option)[section] == recorded(by_keyword)[section]


def test_a_resume_compares_values_in_any_spelling(tmp_path: Path, smooth: Network) -> None:
    run, image = tmp_path / "run", "packaged:chelsea"
    options = {"attack": "pgd", "iterations": 1, "out": run, "logger": "none"}
    lv.attack(smooth, image, eps="8/255", norm="l2", **options)
    stored = open_run(run)
    for same in (
        {"eps": "8/255"},
        {"attack.eps": 8 / 255},
        {"attack.pgd.eps": "8/255"},
        {"attack": "pgd"},
        {"images": [image]},
    ):
        lv.resume(run, smooth, **same)
        assert changed_form(stored, stored_form(stored), same).module == stored_form(stored).module
    with pytest.raises(LitVizError, match=r"attack.eps can't be changed"):
        lv.resume(run, smooth, eps="4/255")
    with pytest.raises(LitVizError, match=r"vary can't be changed: .* was started with None, got \{'eps'"):
        lv.resume(run, smooth, eps=["8/255", "4/255"])
    with pytest.raises(LitVizError, match=r"can't be changed"):
        lv.attack(smooth, image, eps=["8/255", "4/255"], resume=True, **options)


def test_arguments_of_another_place_are_errors(smooth: Network) -> None:
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(LitVizError, match=r"network.size must be given to load_network\(\.\.\., size=32\)"):
        lv.attack(smooth, image, **{"network.size": 32})
    with pytest.raises(LitVizError, match="against does not apply to attacks"):
        lv.attack(smooth, image, against=2)


def test_a_resume_enters_no_parser(tmp_path: Path, smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    before = lv.visualize(smooth, [1], iterations=2, views=1, out=run, wandb="disabled")
    monkeypatch.setattr("argparse.ArgumentParser.__init__", lambda *_, **__: pytest.fail("entered"))
    assert torch.equal(lv.resume(run, smooth, slots=4).images, before.images)


def test_the_default_parts_are_those_of_the_modules(smooth: Network) -> None:
    """Left out or named, by a keyword or by the constructor."""
    image = {"images": "packaged:chelsea"}
    attack, saliency = METHODS["attack"], METHODS["saliency"]
    made = AdversarialExample(smooth)
    for values in (image, image | {"attack": "normalized_ascent"}):
        assert method_form(attack, values).build_module(smooth).plain_arguments()["attack"] == plain_arguments(
            made.attack
        )
    for values in (image, image | {"method": "gradient"}):
        methods = method_form(saliency, values).build_module(smooth).plain_arguments()["method"]
        assert methods == SaliencyMap(smooth).plain_arguments()["method"]


# -- what a form may execute

CALLS: list[str] = []


class Recording:
    """No part."""

    def __init__(self, *_: Any, **__: Any) -> None:
        CALLS.append("called")


class RecordingTransform(images.Transform):
    """A part of another place."""

    def __init__(self) -> None:
        CALLS.append("called")

    def __call__(self, images: Tensor, draws: Any) -> Tensor:
        return images


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "module": lambda path: {"module": {"class_path": path}},
    "tasks": lambda path: {"tasks": {"class_path": path}},
    "attack": lambda path: {"module": {"init_args": {"attack": {"class_path": path}}}},
    "attack by its path": lambda path: {"module": {"init_args": {"attack": path}}},
    "part of an attack": lambda path: {
        "module": {
            "init_args": {
                "attack": {"class_path": "lit_viz.attacks.PGD", "init_args": {"objective": {"class_path": path}}}
            }
        }
    },
    "iterations": lambda path: {"module": {"init_args": {"iterations": {"class_path": path}}}},
    "goal": lambda path: {"tasks": {"init_args": {"goal": {"class_path": path}}}},
    "vary": lambda path: {"tasks": {"init_args": {"vary": {"eps": [{"class_path": path}]}}}},
    "strategy": lambda path: {"run": {"trainer": {"strategy": {"class_path": path}}}},
    "logger": lambda path: {"run": {"logger": {"class_path": path}}},
    "scale": lambda path: {"run": {"scale": {"class_path": path}}},
}


@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "os.abort", f"{__name__}.Recording", f"{__name__}.RecordingTransform"]
)
@pytest.mark.parametrize("place", PLACES)
def test_a_class_of_another_kind_is_not_constructed(
    place: str, path: str, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.abort", lambda: CALLS.append("called"))
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: CALLS.append("called"))
    CALLS.clear()
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(PLACES[place](path)))
    with pytest.raises(LitVizError):
        lv.attack(smooth, torch.rand(1, 3, 16, 16), label=0, config=tmp_path / "own.yaml")
    assert CALLS == []


@pytest.mark.parametrize("place", ["iterations", "vary", "strategy", "logger", "scale"])
def test_nothing_is_imported_where_no_class_is_annotated(
    place: str, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(PLACES[place]("harmful.Part")))
    with pytest.raises(LitVizError):
        lv.attack(smooth, torch.rand(1, 3, 16, 16), label=0, config=tmp_path / "own.yaml")


# -- an attack of a user

OWN_ATTACK = '''
"""An attack of a user, in one file."""

from lit_viz.attacks import Attack, masked_gradient


class Own(Attack):
    """Steps of equal size.

    Args:
        strength: size of a step in units of 1/255.
    """

    def __init__(self, strength: int = 1) -> None:
        self.strength = strength

    def update(self, x, state, evaluation, rows):
        step = self.strength / 255 * masked_gradient(evaluation, x, rows).sign()
        return (x + step).clamp(0, 1), state
'''


@pytest.fixture
def _own_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_attack.py").write_text(OWN_ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_attack", raising=False)


WRITTEN = {"class_path": "own_attack.Own", "init_args": {"strength": 2}}


@pytest.mark.usefixtures("_own_attack")
def test_an_own_attack_works_at_every_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], smooth: Network, lit_viz: Any, small_options: list[str]
) -> None:
    def attack_of(folder: Path) -> Any:
        return recorded(folder)["module"]["init_args"]["attack"]

    common = ["attack", "packaged:chelsea", *small_options, "--iterations", "3"]
    of_keyword, of_option, of_dotted, of_yaml = (tmp_path / name for name in ("keyword", "option", "dotted", "yaml"))
    options = {"attack": "own_attack.Own", "iterations": 3, "wandb": "disabled"}
    run = lv.attack(smooth, "packaged:chelsea", strength=2, out=of_keyword, **options)
    lit_viz(*common, "--strength", "2", "--attack", "own_attack.Own", "--out", str(of_option))
    lit_viz(*common, "--attack", "own_attack.Own", "--attack.strength", "2", "--out", str(of_dotted))
    module = {"class_path": "lit_viz.AdversarialExample", "init_args": {"attack": WRITTEN, "iterations": 3}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"module": module}))
    lit_viz("attack", "packaged:chelsea", *small_options, "--config", str(tmp_path / "own.yaml"), "--out", str(of_yaml))
    images_of = [lv.resume(folder, smooth).images for folder in (of_option, of_dotted, of_yaml)]
    for folder, found in zip((of_option, of_dotted, of_yaml), images_of, strict=True):
        assert attack_of(folder) == WRITTEN == attack_of(of_keyword)
        assert torch.equal(found, run.images)
    weak = lv.attack(smooth, "packaged:chelsea", **options)
    assert not torch.equal(weak.images, run.images)


@pytest.mark.usefixtures("_own_attack")
def test_the_argument_of_an_own_attack_has_its_help(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    lit_viz("attack", "--attack", "own_attack.Own", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--strength.*, --attack\.strength STRENGTH size of a step in units of 1/255\.", text)
    lit_viz("attack", "--help")
    assert "--strength" not in capsys.readouterr().out


@pytest.mark.usefixtures("_own_attack")
def test_a_resume_keeps_the_argument_of_an_own_attack(tmp_path: Path, smooth: Network) -> None:
    run, options = tmp_path / "run", {"attack": "own_attack.Own", "iterations": 3, "wandb": "disabled"}
    lv.attack(smooth, "packaged:chelsea", strength=2, out=run, **options)
    for again in (lambda: lv.resume(run, smooth, strength=3), lambda: lv.resume(run, smooth, **{"attack.strength": 3})):
        with pytest.raises(LitVizError, match=r"strength can't be changed: .* was started with 2, got 3"):
            again()
    with pytest.raises(LitVizError, match=r"strength can't be changed"):
        lv.attack(smooth, "packaged:chelsea", out=run, resume=True, **options)
    lv.resume(run, smooth, strength=2)


@pytest.mark.usefixtures("_own_attack")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": "x"}, "strength must be a whole number, got 'x'"),
        ({"strenght": 2}, "strenght is not an argument of .*did you mean 'strength'"),
        ({"eps": 0.1}, "eps"),
    ],
)
def test_wrong_arguments_of_an_own_attack(options: dict[str, Any], words: str, smooth: Network) -> None:
    with pytest.raises(LitVizError, match=words):
        lv.attack(smooth, torch.rand(1, 3, 16, 16), attack="own_attack.Own", **options)


# -- tasks and methods of a user

OWN_TASKS = '''
"""Tasks and a saliency method of a user, in one file."""

from lit_viz import TaskQueue
from lit_viz.attributions import Gradient
from lit_viz.types import Task


class Numbered(TaskQueue):
    """The first classes of a network.

    Args:
        count: number of classes.
    """

    def __init__(self, count: int = 1, seed: int = 0) -> None:
        super().__init__([Task(index, f"class {index}", seed + index, target=index) for index in range(count)])


class Doubled(Gradient):
    """A gradient with another name."""
'''


@pytest.fixture
def _own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(OWN_TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)


@pytest.mark.usefixtures("_own_tasks")
def test_own_tasks_of_a_configuration_are_kept(tmp_path: Path, smooth: Network) -> None:
    section = {"class_path": "own_tasks.Numbered", "init_args": {"count": 2}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"tasks": section}))
    command, config = METHODS["visualize"], str(tmp_path / "own.yaml")
    form = method_form(command, parse_method(command, ["--config", config, "--seed", "5"]))
    assert [(task.target, task.seed) for task in form.build_tasks(smooth).tasks] == [(0, 5), (1, 6)]
    with pytest.raises(LitVizError, match="channel is not an argument of"):
        method_form(command, {"config": config, "channel": [1]})
    run = lv.visualize(smooth, config=config, iterations=1, views=1)
    assert [record.target for record in run.records] == [0, 1]


def test_the_tasks_of_a_recorded_queue_are_kept(tmp_path: Path, smooth: Network) -> None:
    module = ClassVisualization(smooth, iterations=1)
    queue = TaskQueue([Task(0, "one", 3, target=1), Task(1, "two", 4, target=2)])
    lv.run(module, queue, tmp_path / "run", logger="none")
    form = method_form(METHODS["visualize"], {"config": tmp_path / "run" / "config.yaml"})
    assert list(form.build_tasks(smooth).tasks) == list(queue.tasks)
    form = method_form(METHODS["visualize"], {"config": tmp_path / "run" / "config.yaml", "target": [4]})
    assert [task.target for task in form.build_tasks(smooth).tasks] == [4]


@pytest.mark.usefixtures("_own_tasks")
def test_an_own_method_is_one_of_several(smooth: Network) -> None:
    image = torch.rand(1, 3, 16, 16)
    run = lv.saliency(smooth, image, method="gradient,own_tasks.Doubled", captum="none")
    assert [record["method"] for record in run.records] == ["gradient", "Doubled"]
    with pytest.raises(LitVizError, match=r"sgma is not an argument of .*"):
        lv.saliency(smooth, image, method="gradient,own_tasks.Doubled", sgma=1)
