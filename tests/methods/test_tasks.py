"""From photographs and classes to the tasks of a queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lit_viz.errors import LitVizError
from lit_viz.methods import SaliencyMap
from lit_viz.methods.photographs import needs_logits
from lit_viz.methods.tasks import ImageTasks, class_of, varied
from lit_viz.networks import Network
from lit_viz.types import Task
from lit_viz.utils.labels import imagenet_labels
from tests.support.calls import calls_of


def network_of(labels: Sequence[str]) -> Network:
    """Return a network with these classes; its network is not evaluated."""
    return Network("named", nn.Identity(), labels=labels, mean=[0.5] * 3, std=[0.5] * 3, size=(8, 8))


IMAGENET = network_of(imagenet_labels())
FRUIT = network_of(["apple", "banana", "cherry", "date", "elder"])


def make(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def write(file: Path, text: str) -> str:
    file.write_bytes(text.encode())
    return str(file)


def queue(given: str | list[str], network: Network = FRUIT, target: Any = None, **options: Any) -> list[Task]:
    """Return the tasks of images, with each of several targets for each image."""
    if isinstance(target, list):
        options["vary"] = {"target": target}
        target = None
    return list(ImageTasks(network, given, target=target, **options).tasks)


def saliency_queue(given: str | list[str], network: Network = FRUIT, **options: Any) -> list[Task]:
    """Return the tasks of maps, which explain the label without a target."""
    return list(SaliencyMap(network).expand_tasks(queue(given, network, **options)))


def test_tasks_of_several_methods_are_ordered_by_method() -> None:
    module = SaliencyMap(FRUIT, method=["gradient", "smoothgrad"])
    tasks = queue("packaged:chelsea") + [replace(task, index=1) for task in queue("packaged:coffee")]
    expanded = module.expand_tasks(tasks)
    described = [(task.index, task.name, task.method) for task in expanded]
    assert described == [
        (0, "chelsea", "gradient"),
        (1, "coffee", "gradient"),
        (2, "chelsea", "smoothgrad"),
        (3, "coffee", "smoothgrad"),
    ]
    assert list(expanded[1:]) == [expanded[position] for position in (1, 2, 3)]
    assert expanded[-1] == expanded[3]
    with pytest.raises(IndexError):
        expanded[4]


# -- the queue


def test_tasks_are_ordered_by_photograph(tmp_path: Path) -> None:
    folder = make(tmp_path, "a/x.jpg", "b/x.jpg")
    tasks = queue(folder, target=["cherry", "label", 0], seed=40)
    assert [(t.index, t.name, t.seed, t.target, t.target_name, t.rule) for t in tasks] == [
        (0, "a/x", 40, 2, "cherry", None),
        (1, "a/x", 41, None, None, "label"),
        (2, "a/x", 42, 0, "apple", None),
        (3, "b/x", 43, 2, "cherry", None),
        (4, "b/x", 44, None, None, "label"),
        (5, "b/x", 45, 0, "apple", None),
    ]
    assert [t.source for t in tasks] == [str(tmp_path / folder / "x.jpg") for folder in "aaabbb"]
    assert {(t.label, t.label_source) for t in tasks} == {(None, "predicted")}
    assert len({t.key for t in tasks}) == 6


def test_without_a_target_it_is_the_label_or_none() -> None:
    (saliency,) = saliency_queue("packaged:chelsea")
    (attack,) = queue("packaged:chelsea")
    assert (saliency.name, saliency.source) == ("chelsea", "packaged:chelsea")
    assert (saliency.rule, saliency.method) == ("label", "gradient")
    assert (attack.target, attack.rule) == (None, "none")
    with pytest.raises(LitVizError, match="target must have at least one value, got none"):
        queue("packaged:chelsea", target=[])
    assert needs_logits(attack)  # its label has to be predicted


def test_given_labels_are_set_at_once(tmp_path: Path) -> None:
    tasks = queue(make(tmp_path, "banana/x.jpg"), label="folders", target=["label", "random", "predicted", "banana"])
    assert [(t.label, t.label_source) for t in tasks] == [(1, "folders")] * 4
    assert (tasks[0].target, tasks[0].target_name) == (1, "banana")
    assert tasks[1].target in (0, 2, 3, 4)
    assert tasks[1].target_name == FRUIT.labels[tasks[1].target]
    assert tasks[2].target is None
    assert tasks[3].target == 1  # a target may be the label
    assert [needs_logits(t) for t in tasks] == [False, False, True, False]


def test_random_targets_follow_the_seed_of_the_task(tmp_path: Path) -> None:
    folder = make(tmp_path, *(f"date/{i}.jpg" for i in range(30)))
    tasks = queue(folder, label="folders", target="random", seed=5)
    assert {t.target for t in tasks} == {0, 1, 2, 4}
    later = queue(folder, label="folders", target="random", seed=6)
    assert [t.target for t in later[:-1]] == [t.target for t in tasks[1:]]


def test_notes_are_forwarded(tmp_path: Path) -> None:
    assert ImageTasks(FRUIT, make(tmp_path, "a.jpg", "b.txt")).notes == ["1 other file skipped (b.txt)"]


def calls_to_queue(root: Path, count: int) -> tuple[int, int]:
    """Return the calls of functions for a queue from a folder with a table of labels, and for one from the table."""
    rows = "".join(f"{i % 50}/{i}.jpg,{'tarantula' if i % 2 else 'tarantulla'}\n" for i in range(count))
    root.mkdir()
    table = write(root / "all.csv", "file,label\n" + rows)
    folder = make(root / "photos", *(f"{i % 50}/{i}.jpg" for i in range(count)))
    labeled, of_folder = calls_of(lambda: queue(folder, IMAGENET, label=table, target=["random", "label"]))
    listed, of_table = calls_of(lambda: queue(table, IMAGENET))
    assert sum(task.error is not None for task in labeled) == count // 2
    assert len(listed) == count
    return of_folder, of_table


def test_the_work_to_queue_grows_linearly(tmp_path: Path) -> None:
    few, many = calls_to_queue(tmp_path / "few", 100), calls_to_queue(tmp_path / "many", 1000)
    for small, large in zip(few, many, strict=True):
        assert large < 11 * small


# -- labels


@pytest.mark.parametrize(
    ("folder", "label"),
    [("n01443537", 1), ("n01774750", 76), ("n15075141", 999), ("0076", 76), ("tiger_shark", 3), ("Tarantula", 76)],
)
def test_a_folder_is_called_by_name_index_or_wordnet_id(folder: str, label: int, tmp_path: Path) -> None:
    (task,) = saliency_queue(make(tmp_path, f"{folder}/x.jpg"), IMAGENET, label="folders")
    assert (task.label, task.target) == (label, label)
    assert task.target_name == IMAGENET.labels[label]


def test_wordnet_ids_mean_the_same_classes_as_the_names() -> None:
    """The ids come with the data set's names: of 1000 only the two that torchvision renames are called otherwise."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = {name: info.label_name_to_description(name).casefold().split(", ") for name in info.label_names()}
    labels = {name: imagenet_labels()[class_of(IMAGENET, name)].casefold() for name in names}
    assert sorted(label for name, label in labels.items() if label not in names[name]) == [
        "crane bird",
        "maillot tank suit",
    ]


@pytest.mark.parametrize("labels", [["a", "goldfish"], imagenet_labels()[::-1], ("background", *imagenet_labels())])
def test_wordnet_ids_are_of_no_other_classes(labels: Sequence[str]) -> None:
    with pytest.raises(LitVizError, match="unknown class 'n01443537'"):
        class_of(network_of(labels), "n01443537")


def test_a_wordnet_id_may_be_a_name() -> None:
    assert class_of(network_of(["n01774750", "n01443537"]), "n01443537") == 1


def test_a_photograph_in_the_working_folder_is_in_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "cherry/x.jpg")
    monkeypatch.chdir(tmp_path / "cherry")
    assert [queue(word, label="folders")[0].label for word in ("x.jpg", ".", "./x.jpg")] == [2, 2, 2]
    (tmp_path / "cherry" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "cherry" / "sub")
    assert queue("../x.jpg", label="folders")[0].label == 2


def test_only_the_photograph_without_a_label_fails(tmp_path: Path) -> None:
    folder = make(tmp_path, "misc/a.jpg", "9/b.jpg", "date/c.jpg", "chery/d.jpg")
    tasks = queue([folder, "packaged:coffee"], label="folders", target=["apple", "label"], seed=10)
    wrong, misspelt, good, again, misc, packaged = tasks
    assert [t.error for t in (good, again)] == [None, None]
    assert "b.jpg is no class: class index must be between" in wrong.error
    assert "d.jpg is no class: unknown class 'chery'; did you mean 'cherry'?" in misspelt.error
    assert "a.jpg is no class: unknown class 'misc'" in misc.error
    assert "has no folder with the name of its class" in packaged.error
    assert [(t.index, t.seed) for t in tasks] == [(i, 10 + i) for i in range(6)]
    assert (misc.name, misc.source) == ("a", str(tmp_path / "misc" / "a.jpg"))
    assert not any(needs_logits(t) for t in (wrong, misspelt, misc, packaged))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_linked_folder_is_called_as_the_link(tmp_path: Path) -> None:
    make(tmp_path / "store", "misc/x.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "banana").symlink_to(tmp_path / "store" / "misc")
    assert [t.label for t in queue(str(tmp_path / "photos" / "banana"), label="folders")] == [1]
    # Links below a folder may lead anywhere.
    with pytest.raises(LitVizError, match=r"there is no picture in the folder .*, only banana"):
        queue(str(tmp_path / "photos"), label="folders")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_only_the_photograph_with_an_unwritable_name_fails(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(make(tmp_path, "a.jpg")) + b"/caf\xe9.jpg")).touch()
    good, broken = queue(str(tmp_path))
    assert good.error is None
    assert "not UTF-8" in broken.error
    assert not needs_logits(broken)


def test_a_run_without_any_label_is_rejected(tmp_path: Path) -> None:
    folder = make(tmp_path / "misc", "a.jpg", "b.jpg")
    with pytest.raises(LitVizError, match=r"^none of the 2 images can be used; of the first: the fold.*misc"):
        queue(folder, label="folders")
    with pytest.raises(LitVizError, match=r"^the folder of .*a\.jpg is no class"):
        queue(str(tmp_path / "misc" / "a.jpg"), label="folders")


def test_labels_from_a_table(tmp_path: Path) -> None:
    folder = make(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    table = write(tmp_path / "truth.csv", "file,label\r\na.jpg,76\r\nphotos/b.jpg,n01443537\r\nd.jpg,crane\r\n")
    first, second, third, fourth = saliency_queue(folder, IMAGENET, label=table)
    assert [(t.label, t.label_source, t.target) for t in (first, second)] == [(76, table, 76), (1, table, 1)]
    assert third.error == f"{tmp_path / 'photos' / 'c.jpg'} has no label in {table}"
    assert "class 'crane' is ambiguous: give one of the indices 134 (crane bird), 517 (crane)" in fourth.error


def test_a_label_that_holds_a_comma(tmp_path: Path) -> None:
    network = network_of(["hay", "tench, Tinca tinca"])
    table = write(tmp_path / "truth.csv", 'file,label\nx.jpg,"tench, Tinca tinca"\n')
    assert queue(make(tmp_path / "p", "x.jpg"), network, label=table)[0].label == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("folder", "got 'folder'; did you mean 'folders'"),
        ("truth.txt", "got 'truth.txt'"),
        ("nowhere.csv", "the table nowhere.csv can't be read"),
    ],
)
def test_unknown_sources_of_labels_are_rejected(labels: str, message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        queue("packaged:coffee", label=labels)


# -- targets


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("crane", r"class 'crane' is ambiguous: give one of the indices 134"),
        ("tarantulla", "unknown class 'tarantulla'; did you mean 'tarantula'"),
        ("1000", "class index must be between 0 and"),
        (-1, "class index must be between 0 and"),
        (["hay", "leastlikely"], "unknown class 'leastlikely'"),
        ("", "class name must not be empty"),
        ("nowhere.csv", "the table nowhere.csv can't be read"),
    ],
)
def test_invalid_targets_are_rejected_at_once(target: str | int | list[str], message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        queue("packaged:coffee", IMAGENET, target=target)


def test_an_index_is_no_name() -> None:
    """Of digits, the class called 1 need not be class 1; as text the name comes first."""
    digits = network_of(["1", "0"])
    assert [t.target for t in queue("packaged:coffee", digits, target=[1, "1"])] == [1, 0]


def test_targets_from_a_table(tmp_path: Path) -> None:
    folder = make(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    table = write(tmp_path / "wanted.csv", "file,target\na.jpg,cherry\nb.jpg,least-likely\nd.jpg,fig\n")
    first, second, third, fourth = queue(folder, target=table)
    assert (first.target, first.target_name) == (2, "cherry")
    assert second.rule == "least-likely"
    assert third.error.endswith(f"c.jpg has no target in {table}")
    assert "the target of" in fourth.error
    both = queue(folder, target=["apple", table])
    assert [(t.name, t.target) for t in both[:4]] == [("a", 0), ("a", 2), ("b", 0), ("b", None)]


def test_a_table_of_photographs_gives_label_and_target(tmp_path: Path) -> None:
    rows = "a.jpg,apple,cherry\na.jpg,apple,random\nb.jpg,,\nc.jpg,fig,\nd.jpg,,fig\npackaged:coffee,date,label\n"
    table = write(tmp_path / "all.csv", "file,label,target\n" + rows)
    tasks = queue(table, target=["elder", "banana"])
    message = [(t.name, t.label, t.label_source, t.target) for t in tasks]
    assert message[0] == ("a", 0, table, 2)
    assert message[1][:3] == ("a", 0, table)
    assert message[2:4] == [("b", None, "predicted", 4), ("b", None, "predicted", 1)]
    assert "the label of" in tasks[4].error
    assert "the target of" in tasks[5].error
    assert message[6] == ("coffee", 3, table, 3)


def test_a_random_target_of_one_class_fails(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="requires at least 2 classes"):
        queue(make(tmp_path, "only/x.jpg"), network_of(["only"]), label="folders", target="random")


def test_rows_without_a_photograph_or_class_are_reported() -> None:
    with pytest.raises(LitVizError, match=r"an image must be a file, .*, got int"):
        ImageTasks(FRUIT, [6])  # type: ignore[list-item]
    with pytest.raises(LitVizError, match=r"target must be text or a whole number or a list of them, got \[None\]"):
        ImageTasks(FRUIT, ["packaged:chelsea"], target=[None])  # type: ignore[list-item]


def test_every_combination_of_a_task_has_its_seed_and_an_index_of_its_own() -> None:
    tasks = [Task(0, "a", 7, layer="x"), Task(1, "b", 8)]
    many = varied(tasks, {"lr": [0.1, 0.2], "iterations": [5]})
    assert [(t.index, t.name, t.seed) for t in many] == [(0, "a", 7), (1, "a", 7), (2, "b", 8), (3, "b", 8)]
    assert [(t.layer, t.lr, t.iterations) for t in many[1:3]] == [("x", 0.2, 5), (None, 0.1, 5)]
    assert varied(tasks, {}) == tasks
