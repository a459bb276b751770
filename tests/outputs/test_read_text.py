"""Texts that networks read by CTC: scores, margins and readings by enumeration of all alignments; attacks and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.images.reading import read_png
from lit_viz.outputs import ReadText
from tests.support.readers import ALPHABET, HEIGHT, WIDTH, picture, shade_reader

FRAMES = 5
TEXTS = ["ab", "b", "aa", "cab"]


def load(output: ReadText, network: nn.Module | None = None) -> lv.Network:
    network = shade_reader() if network is None else network
    return lv.load_network(network, output=output, size=(HEIGHT, WIDTH), mean=0.0, std=1.0)


def alignments() -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield each sequence of classes, and the text that it reads as."""
    for path in product(range(1 + len(ALPHABET)), repeat=FRAMES):
        text, before = "", 0
        for index in path:
            if index not in (before, 0):
                text += ALPHABET[index - 1]
            before = index
        yield path, text


def probabilities(logits: Tensor) -> dict[str, Tensor]:
    """Return the probability ``(N,)`` of each text, as the sum over its alignments."""
    chances = logits.double().softmax(2)
    sums: dict[str, Tensor] = {}
    for path, text in alignments():
        chance = torch.stack([chances[:, frame, index] for frame, index in enumerate(path)]).prod(0)
        sums[text] = sums.get(text, 0) + chance
    return sums


def margins(logits: Tensor) -> dict[str, Tensor]:
    """Return the largest over alignments of the least margin of a frame ``(N,)``, by text."""
    largest: dict[str, Tensor] = {}
    for path, text in alignments():
        own = []
        for frame, index in enumerate(path):
            others = [other for other in range(1 + len(ALPHABET)) if other != index]
            own.append(logits[:, frame, index] - logits[:, frame, others].amax(1))
        margin = torch.stack(own).amin(0)
        largest[text] = torch.maximum(largest[text], margin) if text in largest else margin
    return largest


@pytest.mark.parametrize("time_first", [False, True])
def test_scores_and_gradients_are_sums_over_all_alignments(time_first: bool) -> None:
    logits = torch.randn(20, FRAMES, 1 + len(ALPHABET), dtype=torch.float64).mul(3).requires_grad_()
    returned = logits.transpose(0, 1) if time_first else logits
    scores = ReadText(TEXTS, ALPHABET, time_first=time_first).scores(returned, 20)
    chances = probabilities(logits)
    expected = torch.stack([torch.logit(chances[text]) for text in TEXTS], 1)
    assert torch.allclose(scores, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(scores.sum(), logits)
    (reference,) = torch.autograd.grad(expected.sum(), logits)
    assert (gradient - reference).abs().max() <= 1e-8 * reference.abs().max()


def test_the_score_of_a_letter_is_against_all_others_at_its_place() -> None:
    logits = torch.randn(20, FRAMES, 1 + len(ALPHABET), dtype=torch.float64).mul(3)
    output = ReadText("aab", ALPHABET, per="letter")
    chances = probabilities(logits)
    assert output.names == ("1 a", "2 a", "3 b")
    for place, score in enumerate(output.scores(logits, 20).T):
        others = 0
        for letter in "abc".replace("aab"[place], ""):
            others = others + chances["aab"[:place] + letter + "aab"[place + 1 :]]
        assert torch.allclose(score, (chances["aab"] / others).log(), atol=1e-9)


def test_the_margin_is_positive_exactly_where_the_text_is_read() -> None:
    logits = torch.randn(4000, FRAMES, 1 + len(ALPHABET)).mul(3)
    identity = nn.Identity()
    output = ReadText(TEXTS, ALPHABET)
    read = output.read(identity, logits, lambda images: images)
    final = output.final(logits, len(logits))
    largest = margins(logits)
    for column, text in zip(final.T, TEXTS, strict=True):
        assert torch.equal(column, largest[text])
        assert (column > 0).tolist() == [own == text for own in read]
    assert len(set(read) & set(TEXTS)) == len(TEXTS)
    letters = ReadText("ab", ALPHABET, per="letter").final(logits, len(logits))
    for column, beginning in zip(letters.T, ("a", "ab"), strict=True):
        assert (column > 0).tolist() == [own.startswith(beginning) for own in read]


@pytest.mark.parametrize(
    ("alphabet", "blank", "read"),
    [
        ("abc", 0, "ab"),
        (["", "a", "b", "c"], 0, "ab"),
        ("xyz", 3, "yz"),
        ("xyz_", 3, "yz"),
        ({"a": 1, "b": 2}, 0, "ab"),
        ({"c": 3, "a": 1}, 0, "ac"),  # b is never read: its frame is nearest to the blank or to c
    ],
)
def test_an_alphabet_names_the_classes(alphabet: Any, blank: int, read: str) -> None:
    logits = torch.full((1, FRAMES, 4), -9.0)
    for frame, index in enumerate((1, 2, 2, blank, blank)):
        logits[0, frame, index] = 9.0
        logits[0, frame, 3 if blank == 0 else 0] = 0.0
    output = ReadText(read, alphabet, blank=blank)
    assert output.read(nn.Identity(), logits, lambda images: images) == [read]
    assert output.final(logits, 1)[0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "texts must have at least one text, got none"),
        ({"texts": ["a", ""]}, "a text must have at least one character, got ''"),
        ({"texts": ["a", "a"]}, "texts must be different, got ['a', 'a']"),
        ({"texts": "aX"}, "texts must have characters of the alphabet only, got 'X' of 'aX'"),
        ({"texts": ["a", "b"], "per": "letter"}, "per letter, texts must be one text, got 2 texts"),
        ({"texts": "a", "alphabet": "abcdefg"}, "alphabet must have 3 characters or 4, got 7"),
        ({"texts": "a", "alphabet": {"a": 7}}, "alphabet must map to classes from 0 to 3 other than the blank"),
        ({"texts": "a", "blank": 4}, "blank must be below the number of classes, 4, got 4"),
        ({"texts": "aabb"}, None),
        ({"texts": "abcabc"}, "'abcabc' requires 6 frames, got 5 of the network"),
        ({"texts": "aaaa"}, "'aaaa' requires 7 frames, got 5 of the network"),
        ({"texts": "a", "time_first": True}, "ReadText requires a network that returns frames (T, N, C), got shape"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any], message: str | None) -> None:
    given = {"alphabet": ALPHABET, **arguments}
    if message is None:
        given["texts"] = "aab"
        load(ReadText(**given))
        return
    with pytest.raises(lv.LitVizError, match=re.escape(message)) as error:
        load(ReadText(**given))
    assert "\n" not in str(error.value)


def test_a_network_without_frames_is_rejected() -> None:
    with pytest.raises(lv.LitVizError, match=r"ReadText requires a network that returns frames \(N, T, C\), got shape"):
        load(ReadText("a", ALPHABET), nn.Sequential(nn.Flatten(), nn.Linear(3 * HEIGHT * WIDTH, 4)))


# -- reading


def test_read_returns_the_text_of_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = load(ReadText("ab", ALPHABET))
    texts = ["ab", "cab", "", "a a", "aa"]
    images = torch.cat([picture(text) for text in texts])
    expected = ["ab", "cab", "", "aa", "a"]  # repeated letters need a blank
    assert lv.read(net, images) == expected
    levels = images[1].mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "cab.png")
    assert lv.read(net, tmp_path / "cab.png") == ["cab"]


def test_the_command_reads_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reader.py").write_text(
        "from lit_viz.outputs import ReadText\n"
        "from tests.support.readers import ALPHABET, shade_reader\n"
        "build = shade_reader\n"
        "output = ReadText('ab', ALPHABET)\n"
    )
    for text in ("ab", "cab"):
        levels = picture(text)[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(f"{text}.png")
    options = ["--network.size", f"{HEIGHT},{WIDTH}", "--network.mean", "0", "--network.std", "1"]
    main(["read", "ab.png", "cab.png", "--network", "reader:build", "--network.output", "reader:output", *options])
    assert capsys.readouterr().out == "ab\tab\ncab\tcab\n"
    with pytest.raises(SystemExit):
        main(["read", "packaged:chelsea", "--network", "zoo/fashion_cnn"])
    assert "gives scores and no text: load the network with ReadText" in capsys.readouterr().err


# -- evidence


def attacked(folder: Path, **options: Any) -> Any:
    net = load(ReadText(["ab", "bb", "cb"], ALPHABET))
    given = {"attack": "pgd", "eps": "64/255", "iterations": 30, "logger": None, "progress": False}
    return net, lv.attack(net, picture("ab"), out=folder, **{**given, **options})


def test_a_success_has_the_text_of_its_file(tmp_path: Path) -> None:
    net, run = attacked(tmp_path / "run", target="cb", eps="190/255")
    (record,) = run.records
    assert (record.text_before, record.text, record.text_agrees) == ("ab", "cb", True)
    assert record.success_file is True
    assert net.read(read_png(tmp_path / "run" / record.file)[None]) == ["cb"]
    assert run.presentation.table(run.records)[0]["seen as"] == "cb"
    captions = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["recorded"]["scores"]
    assert "Fooled: the text of the saved file is the target" in captions  # and no threshold of p
    assert lv.check(tmp_path / "run", net)


@pytest.mark.parametrize("goal", ["vanish", "appear"])
def test_goals_apply_to_texts(goal: str, tmp_path: Path) -> None:
    wanted = {"label": "ab"} if goal == "vanish" else {"target": "cb"}
    _, run = attacked(tmp_path / "run", goal=goal, eps="190/255", **wanted)
    (record,) = run.records
    assert record.success_file is True
    assert (record.text != "ab") if goal == "vanish" else (record.text == "cb")


def test_a_failure_has_its_text_too(tmp_path: Path) -> None:
    _, run = attacked(tmp_path / "run", target="cb", eps="2/255", iterations=2)
    (record,) = run.records
    assert (record.text, record.text_agrees, record.success_file) == ("ab", True, False)


class Lying(ReadText):
    """An output whose scores say what the network does not read."""

    def read(self, network: nn.Module, images: Tensor, normalize: Any) -> list[str]:
        return ["ab"] * len(images)


def test_a_success_that_the_text_contradicts_is_none(tmp_path: Path) -> None:
    net = load(Lying(["ab", "cb"], ALPHABET))
    run = lv.attack(net, picture("ab"), target="cb", attack="pgd", eps="190/255", iterations=30)
    (record,) = run.records
    assert record.success_float is True
    assert (record.text, record.text_agrees, record.success_file) == ("ab", False, False)


def test_a_photograph_that_reads_as_the_target_is_skipped(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        _, run = attacked(tmp_path / "run", target="ab", label="bb")
    assert run.records[0].error == "the text is 'ab' before the attack: give another goal"


def test_maps_of_letters_have_the_text_of_the_photograph(tmp_path: Path) -> None:
    net = load(ReadText("cab", ALPHABET, per="letter"))
    run = lv.saliency(net, picture("cab"), vary={"target": list(net.labels)}, out=tmp_path / "run", logger=None)
    assert [record.target_name for record in run.records] == ["1 c", "2 a", "3 b"]
    for place, (record, saliency) in enumerate(zip(run.records, run.maps, strict=True)):
        assert (record.text, record.text_agrees) == ("cab", True)
        columns = torch.as_tensor(saliency).sum(0).view(-1, 8).sum(1)
        assert int(columns[:3].argmax()) == place  # another letter may also need the frames after the text
    assert run.evidence.captum.passed
    assert lv.check(tmp_path / "run", net)
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert evidence["texts"] == {"read": 1, "wrong": []}


def test_check_finds_another_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = load(ReadText("cab", ALPHABET))
    lv.saliency(net, picture("cab"), out=tmp_path / "map", logger=None)
    _, run = attacked(tmp_path / "attack", target="cb", eps="190/255")
    for folder in ("map", "attack"):
        other = load(Lying(["ab", "bb", "cb"] if folder == "attack" else "cab", ALPHABET))
        assert not lv.check(tmp_path / folder, other, progress=True)
        assert "the text is 'ab', recorded" in capsys.readouterr().err
    assert run.records[0].text == "cb"


def test_a_run_is_resumed_with_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = lv.load_network(
        "tests.support.readers:shade_reader",
        output=ReadText(["ab", "cb"], {"a": 1, "b": 2, "c": 3}),
        size=(HEIGHT, WIDTH),
        mean=0.0,
        std=1.0,
    )
    levels = picture("ab")[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "ab.png")
    run = lv.saliency(net, tmp_path / "ab.png", target="cb", out=tmp_path / "run", logger=None)
    again = lv.resume(tmp_path / "run")
    assert again.records[0].text == run.records[0].text == "ab"
    assert again.records[0].text_agrees is False
    assert lv.check(tmp_path / "run")


def test_the_figure_has_a_map_of_each_letter_in_order(figures: Any) -> None:
    net = load(ReadText("aba", ALPHABET, per="letter"))
    run = lv.saliency(net, torch.rand(1, 3, HEIGHT, WIDTH), vary={"target": [2, 0, 1]}, captum="none")
    assert [record.place for record in run.records] == [3, 1, 2]
    (text,) = {record.text for record in run.records}
    texts = figures.texts(run.figure())
    assert [text for text in texts if text[0].isdigit() and " " in text] == ["1 a", "2 b", "3 a"]
    assert f"says: {text}" in texts or not text
