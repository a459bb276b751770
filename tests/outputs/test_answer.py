"""Answers of small random networks of transformers: teacher forcing against ``generate``, gradients, attacks, files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

import lit_viz as lv
from lit_viz.images.reading import read_png
from lit_viz.networks.attention import attention_layers
from lit_viz.outputs import Answer, as_output
from tests.support.marks import slow
from tests.support.pages import blocks, read, run
from tests.support.speakers import FAMILIES, PROMPTS, SPECIAL, TILES, WORDS, save

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of the processors of transformers
SIDE = 32
#: Families that take a prompt before, with, and after the image.
SOME = ("git", "trocr", "llava")
#: Families whose networks call the vision tower in different places.
SHARED = ("blip", "git", "blip2", "mllama")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that saves a network once and returns its folder."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp(family)
            save(family, path)  # skips the test where a package is missing
            made[family] = path
        return made[family]

    return folder


def load(folder: Path, family: str, answers: Any = ("a red car", "a dog sits"), **options: Any) -> lv.Network:
    given = answers if isinstance(answers, str) else list(answers)
    return lv.load_network(str(folder), output=Answer(given, PROMPTS[family], **options), size=SIDE)


def photograph(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    color = torch.rand(1, 3, 1, 1, generator=generator)
    noise = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    return ((0.7 * color + 0.3 * noise) * 255).round() / 255


def generated(folder: Path, family: str, image: Tensor, *, levels: bool = True, **options: Any) -> tuple[Any, Any]:
    """Return what a network generates about an image, of 8 bits or in [0, 1], and its own processor."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    pixels = (image[0] * 255).round().byte() if levels else image[0]
    how = {} if levels else {"do_rescale": False}
    words = {} if PROMPTS[family] is None else {"text": [PROMPTS[family]]}
    encoded = processor(images=[[pixels]], return_tensors="pt", **words, **how)
    encoded.pop("labels", None)
    with torch.no_grad():
        return network.generate(**encoded, do_sample=False, num_beams=1, **options), processor


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_log_odds_of_generation(family: str, folders: Any) -> None:
    """A text of several words: the network's own logits while it generates exactly that text."""
    folder, image = folders(family), photograph(1)
    specials = [*range(len(SPECIAL) + len(TILES)), *range(len(SPECIAL) + len(TILES) + len(WORDS), 40)]
    said, processor = generated(
        folder, family, image, levels=False, suppress_tokens=specials, max_new_tokens=5, min_new_tokens=5,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    tokens = said.sequences[0, -5:]
    text = processor.tokenizer.decode(tokens) if hasattr(processor, "tokenizer") else processor.decode(tokens)
    assert len(text.split()) == 5
    log_p = torch.zeros(())
    odds = []
    for logits, token in zip(said.logits, tokens, strict=True):
        others = torch.cat([logits[0, :token], logits[0, token + 1 :]]).logsumexp(0)
        odds.append(logits[0, token] - others)
        log_p = log_p + torch.nn.functional.logsigmoid(odds[-1])
    net = load(folder, family, [text, "a red car"], end=False)
    assert float(net.scores(image)[0, 0]) == pytest.approx(float(torch.logit(log_p.exp().double())), abs=2e-2)
    by_token = load(folder, family, text, end=False, per="token")
    assert by_token.scores(image)[0].tolist() == pytest.approx([float(value) for value in odds], abs=2e-2)
    alone = load(folder, family, "a red car", end=False)
    assert torch.allclose(alone.scores(image)[0, 0], net.scores(image)[0, 1], atol=1e-4)  # with the vision shared


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_margin_is_positive_where_the_text_is_generated(family: str, folders: Any) -> None:
    folder, agreed = folders(family), 0
    for seed in range(4):
        image = photograph(seed)
        text = lv.read(load(folder, family), image)[0]
        sequences, processor = generated(folder, family, image, max_new_tokens=64)
        words = text.split()[:1] or ["two"]
        net = load(folder, family, [words[0], f"{words[0]} of in", "green sits"], end=False)
        said = sequences[0, net.output._prefix.shape[1] :].tolist()
        places = {"blip": 63, "git": 63}.get(family, len(said))  # with room for the token that ends a text
        assert processor.decode(said[:places], skip_special_tokens=True) == text
        for index, margin in enumerate(net.scores(image, final=True)[0]):
            ids = net.output._ids[index].tolist()
            is_said = said[: len(ids)] == ids
            assert bool(margin > 0) is is_said
            agreed += is_said and net.output.agrees(text, index, is_said=True)
    no_word_first = ("trocr", "pix2struct", "qwen2_vl", "donut", "smolvlm")  # these random networks begin with no word
    assert agreed or family in no_word_first


@pytest.mark.parametrize("family", [*SHARED, *(slow(family) for family in FAMILIES if family not in SHARED)])
def test_the_vision_tower_runs_once_for_several_answers(family: str, folders: Any) -> None:
    images = torch.cat([photograph(1), photograph(2)])
    net = load(folders(family), family, ["a red car", "a dog sits", "two"])
    tower = net.original.get_submodule(str(net.output.backbone))
    convolutions = [part for part in tower.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))]
    first = convolutions[0] if convolutions else tower  # Pix2Struct has none
    calls: list[nn.Module] = []
    handle = first.register_forward_hook(lambda module, args, output: calls.append(module))
    scores = net.scores(images)
    handle.remove()
    assert len(calls) == 1
    assert "forward" not in vars(tower)
    with net.output.about([2]):
        alone = net.scores(images)
    assert torch.allclose(alone[:, 2], scores[:, 2], atol=1e-4)


@pytest.mark.parametrize("family", SOME)
def test_gradients_are_those_of_autograd_on_a_plain_copy(family: str, folders: Any) -> None:
    folder, image = folders(family), photograph(2)
    net = load(folder, family, "a red car", pixels=None)
    leaf = image.clone().requires_grad_()
    (own,) = torch.autograd.grad(net.fast()(leaf)[0].sum(), leaf)
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval().double()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    x = image.clone().requires_grad_()
    pixels = processor.image_processor(images=[[x[0]]], do_rescale=False, return_tensors="pt").pixel_values.double()
    ids = torch.tensor([[*processor.tokenizer("a red car").input_ids, 2]])
    if family == "trocr":
        before = torch.cat([torch.tensor([[2]]), ids[:, :-1]], 1)
        logits = network(pixel_values=pixels, decoder_input_ids=before).logits
    elif family == "git":
        logits = network(pixel_values=pixels, input_ids=torch.cat([torch.tensor([[1]]), ids[:, :-1]], 1)).logits
    else:
        encoded = processor(images=[[image[0]]], text=[PROMPTS[family]], do_rescale=False, return_tensors="pt")
        logits = network(pixel_values=pixels, input_ids=torch.cat([encoded.input_ids, ids[:, :-1]], 1)).logits
    log_p = logits[:, -ids.shape[1] :].log_softmax(2).gather(2, ids[..., None]).sum()
    expected = torch.logit(log_p.exp())
    (reference,) = torch.autograd.grad(expected, x)
    assert float(net.scores(image)[0, 0]) == pytest.approx(expected.item(), abs=1e-3)
    assert (own - reference).abs().max() <= 1e-3 * reference.abs().max()


@pytest.mark.parametrize("goal", ["vanish", None])
def test_a_success_has_the_text_of_its_file(goal: str | None, folders: Any, tmp_path: Path) -> None:
    folder = folders("llava")
    images = torch.cat(list(map(photograph, range(5))))
    words = [text.split()[0] for text in lv.read(load(folder, "llava"), images)]
    first = words[0]
    second = next(word for word in words if word != first)
    start = images[:1]
    net = load(folder, "llava", [first, second], end=False)
    wanted = {"label": first, "goal": goal} if goal else {"target": second}
    run = lv.attack(net, start, attack="pgd", eps="128/255", iterations=60, out=tmp_path / "run", logger=None, **wanted)
    (record,) = run.records
    assert record.text_before.startswith(first)
    assert record.success_file is True
    assert record.text_agrees is True
    (again,) = lv.read(net, read_png(tmp_path / "run" / record.file)[None])
    assert again == record.text
    assert again.startswith(first) is False
    assert lv.check(tmp_path / "run")  # loads network and processor from the folder


def test_maps_of_tokens_agree_with_captum(folders: Any, tmp_path: Path) -> None:
    net = load(folders("git"), "git", "a red car", per="token")
    assert net.labels == ("1 a", "2 red", "3 car", "4 </s>")
    run = lv.saliency(
        net, photograph(), vary={"target": list(net.labels)}, method="gradient", captum="captum", out=tmp_path / "run",
        logger=None,
    )  # fmt: skip
    assert run.evidence.captum.passed
    assert len(run.evidence.captum.maps) == 4
    assert all(record.text is not None for record in run.records)
    again = lv.resume(tmp_path / "run")
    assert [record.target_name for record in again.records] == list(net.labels)


def test_a_folder_without_a_processor_of_images_and_text(folders: Any, tmp_path: Path) -> None:
    """As of ViT-GPT2, whose folder has an image processor and a tokenizer."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(folders("trocr"))
    processor = transformers.AutoProcessor.from_pretrained(folders("trocr"))
    for part in (network, processor.image_processor, processor.tokenizer):
        part.save_pretrained(tmp_path / "network")
    image = photograph(1)
    expected, own = load(folders("trocr"), "trocr"), load(tmp_path / "network", "trocr")
    assert torch.equal(own.scores(image), expected.scores(image))
    assert lv.read(own, image) == lv.read(expected, image)


def test_an_encoder_without_a_pooler(folders: Any, tmp_path: Path) -> None:
    """The class that transformers loads has a pooler, whose output no decoder reads."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(folders("trocr"))
    shutil.copytree(folders("trocr"), tmp_path / "network")
    network.encoder.pooler = None
    network.save_pretrained(tmp_path / "network")
    image = photograph(1)
    expected, own = load(folders("trocr"), "trocr"), load(tmp_path / "network", "trocr")
    assert torch.equal(own.scores(image), expected.scores(image))
    pooler = own.original.get_submodule("encoder.pooler")
    assert not any(parameter.any() for parameter in pooler.parameters())


def test_exclusive_scores_are_mean_log_probabilities(folders: Any) -> None:
    folder, image = folders("trocr"), photograph()
    net = load(folder, "trocr", decision="exclusive")
    assert net.decision == "exclusive"
    tokens = load(folder, "trocr", "a red car", per="token").scores(image)
    mean = torch.nn.functional.logsigmoid(tokens).mean()
    assert float(net.scores(image)[0, 0]) == pytest.approx(float(mean), abs=1e-4)
    assert net.output.agrees("a red car", 0, is_said=True) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answers": []}, "answers must have at least one text, got none"),
        ({"answers": ["a", "a"]}, "answers must be different"),
        ({"answers": ""}, "an answer must have at least one token, got ''"),
        ({"answers": "a <image> car"}, "an answer must not contain the place of an image, got 'a <image> car'"),
        ({"answers": "a", "per": "token", "decision": "exclusive"}, "per token, decision must be independent"),
        ({"answers": "a", "processor": "nowhere"}, "can't be read from nowhere"),
        ({"answers": "a", "prompt": "no place"}, "says no text about an image of 32 x 32 with this prompt"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any], message: str, folders: Any) -> None:
    with pytest.raises(lv.LitVizError, match=re.escape(message)) as error:
        lv.load_network(str(folders("llava")), output=Answer(**{"prompt": PROMPTS["llava"], **arguments}), size=SIDE)
    assert "\n" not in str(error.value)


def test_other_errors_are_one_sentence(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lv.LitVizError, match="requires a network of transformers that says a text, got"):
        lv.load_network("zoo/fashion_cnn", output=Answer("a", processor=object()), size=28)
    with pytest.raises(lv.LitVizError, match="the processor of Sequential is not known: give processor"):
        lv.load_network(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)), output=Answer("a"), size=28)
    with pytest.raises(lv.LitVizError, match="prompt applies to the output answer, got Logits"):
        as_output("logits", "what is this")
    with pytest.raises(lv.LitVizError, match=r"input size of .* is required"):
        lv.load_network(str(folders("pix2struct")), output=Answer("a"))
    net = load(folders("git"), "git")
    with pytest.raises(lv.LitVizError, match=r"Answer was prepared for images of \(32, 32\), got \(16, 16\)"):
        net.scores(torch.rand(1, 3, 16, 16))
    detached = load(folders("git"), "git", pixels=lambda x: {"pixel_values": x.detach() - 0.5})
    with pytest.raises(lv.LitVizError, match=r"gives no gradient: install transformers 5\.1 or later, or give pixels"):
        lv.saliency(detached, photograph(), target="a red car", method="gradient")


def test_texts_are_matched_exactly(folders: Any) -> None:
    net = load(folders("git"), "git", ["cat", "a cat, on a road", "7"])
    assert net.index_of("a cat, on a road") == 1
    assert net.index_of("7") == 2
    assert net.index_of(0) == 0
    assert net.index_of(7) == 2
    with pytest.raises(lv.LitVizError, match="unknown text 'Cat'; did you mean 'cat'"):
        net.index_of("Cat")


def test_the_processor_gives_the_size(folders: Any) -> None:
    net = lv.load_network(str(folders("git")), output=Answer("a red car"))
    assert net.size == (SIDE, SIDE)
    assert (net.mean, net.std) == ((0.0,) * 3, (1.0,) * 3)


# -- what the network itself says


def test_without_answers_each_photograph_is_explained_by_what_is_said_of_it(folders: Any, tmp_path: Path) -> None:
    net = lv.load_network(str(folders("git")), output=Answer(end=False))
    images = torch.cat([photograph(seed) for seed in range(6)])
    texts = lv.read(net, images)
    kept = [n for n, text in enumerate(texts) if text]
    images, texts = images[kept], [texts[n] for n in kept]
    assert len(set(texts)) > 1
    run = lv.saliency(net, images, method="gradient", out=tmp_path / "run", logger=None, captum="none")
    for record, text in zip(run.records, texts, strict=True):
        assert record.target_name == text == record.text
        assert record.text_agrees is True
    assert net.output.answers is None  # the network of the user is unchanged


def test_without_answers_targets_are_the_answers(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lit_viz.cli import main

    net = lv.load_network(str(folders("git")), output="answer")
    run = lv.saliency(net, photograph(), target="a red car, on a road", method="gradient", captum="none")
    assert run.records[0].target_name == "a red car, on a road"
    options = ["--network", str(folders("llava")), "--network.output", "answer", "--logger", "none"]
    prompt = ["--network.prompt", PROMPTS["llava"], "--target", "a red car, on a road"]
    words = ["saliency", "packaged:chelsea", *options, *prompt, "--method", "gradient", "--out", str(tmp_path / "run")]
    main(words)
    assert lv.resume(tmp_path / "run").records[0].target_name == "a red car, on a road"
    assert "what is this" in (tmp_path / "run" / "config.yaml").read_text()


def test_without_answers_each_token_has_a_map(folders: Any) -> None:
    net = lv.load_network(str(folders("git")), output=Answer(per="token"))
    image = next(image for image in map(photograph, range(9)) if lv.read(net, image)[0])
    run = lv.saliency(net, image, method="gradient", captum="none")
    assert len(run.records) > 1
    assert [record.target_name.split()[0] for record in run.records] == [str(n + 1) for n in range(len(run.records))]
    assert run.records[-1].target_name.endswith(" </s>")


# -- what the network itself says, different texts of several photographs


@pytest.fixture(scope="module")
def captioner(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a network that says texts of different lengths, and nothing of some photographs."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(folders("git"))
    bias = network.get_output_embeddings().bias
    with torch.no_grad():
        bias[: len(SPECIAL) + len(TILES)] = bias[len(SPECIAL) + len(TILES) + len(WORDS) :] = -50
        bias[2] = 1  # the end
    path = tmp_path_factory.mktemp("captioner")
    shutil.copytree(folders("git"), path, dirs_exist_ok=True)
    network.save_pretrained(path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder of photographs: of the first nothing is said."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in (0, 3, 7):
        save_image(photograph(seed), folder / f"{seed}.png")
    return folder


SAID = {"0": "", "3": "this", "7": "this this this"}


def plain_log_odds(folder: Path, image: Tensor, text: str) -> Tensor:
    """Return the log-odds of the tokens of a text and its end, in float64 by the plain network."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval().double()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    pixels = processor.image_processor(images=[[image[0]]], do_rescale=False, return_tensors="pt").pixel_values
    ids = [*processor.tokenizer(text).input_ids, 2]
    given = torch.tensor([[1, *ids[:-1]]])
    logits = network(pixel_values=pixels.double(), input_ids=given).logits[0, -len(ids) :]
    own = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
    others = logits.scatter(1, torch.tensor(ids)[:, None], -torch.inf).logsumexp(1)
    return (own - others).detach()


@pytest.mark.filterwarnings("ignore:1 skipped of")
def test_a_photograph_without_text_is_skipped(captioner: Path, photographs: Path, tmp_path: Path) -> None:
    net = lv.load_network(str(captioner), output="answer")
    assert dict(zip(SAID, lv.read(net, photographs), strict=True)) == SAID
    with pytest.warns(UserWarning, match="1 skipped of 3 images: 0: the network says nothing of 0"):
        run = lv.saliency(net, photographs, method="gradient", out=tmp_path / "run", logger=None, captum="none")
    skipped, *others = run.records
    assert (skipped.status, skipped.error) == ("skipped", "the network says nothing of 0: give answers or target")
    for record in others:
        assert record.target_name == record.text == SAID[record.name]
        odds = plain_log_odds(captioner, photograph(int(record.name)), SAID[record.name])
        log_p = torch.nn.functional.logsigmoid(odds).sum()
        assert record["logit"] == pytest.approx(float(torch.logit(log_p.exp())), abs=1e-3)
    assert lv.check(tmp_path / "run")
    assert [record.status for record in lv.resume(tmp_path / "run").records] == ["skipped", "done", "done"]


@pytest.mark.parametrize("store", ["files", "tar"])
def test_each_token_of_different_texts_has_a_map(
    store: str, captioner: Path, photographs: Path, tmp_path: Path
) -> None:
    net = lv.load_network(str(captioner), output=Answer(per="token"))
    with pytest.warns(UserWarning, match="1 skipped of 7 images"):
        run = lv.saliency(
            net, photographs, method="gradient", out=tmp_path / "run", logger=None, captum="captum", store=store
        )
    names = [record.target_name for record in run.records[1:]]
    assert names == ["1.1 this", "1.2 </s>", "2.1 this", "2.2 this", "2.3 this", "2.4 </s>"]
    assert [record.place for record in run.records] == [None, 1, 2, 1, 2, 3, 4]
    for seed, records in ((3, run.records[1:3]), (7, run.records[3:])):
        odds = plain_log_odds(captioner, photograph(seed), SAID[str(seed)])
        assert [record["logit"] for record in records] == pytest.approx(odds.tolist(), abs=1e-3)
        assert all(record.text == SAID[str(seed)] and record.text_agrees for record in records)
    assert store == "tar" or run.evidence.captum.passed
    assert lv.check(tmp_path / "run")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of images each time that a text is scored."""
    counts: list[int] = []
    forced = Answer._forced_logits

    def counting(self: Answer, network: Any, arguments: Any, ids: Tensor, images: int, encoded: Any) -> Any:
        counts.append(images)
        return forced(self, network, arguments, ids, images, encoded)

    monkeypatch.setattr(Answer, "_forced_logits", counting)
    return counts


def test_a_photograph_is_scored_on_its_own_text_only(captioner: Path, photographs: Path, scored: list[int]) -> None:
    net = lv.load_network(str(captioner), output=Answer(["this", "this this this"], per="token"))
    images = torch.cat([photograph(3), photograph(7), photograph(9)])
    whole, scored[:] = net.scores(images), []
    with net.output.about([1, 5, 2]):
        own = net.scores(images)
    assert scored == [1, 2]
    assert torch.equal(own.isneginf(), torch.tensor([[False] * 2 + [True] * 4] + 2 * [[True] * 2 + [False] * 4]))
    assert torch.allclose(own[own.isfinite()], whole[own.isfinite()], atol=1e-4)
    leaf = images.clone().requires_grad_()
    with net.output.about([1, 5, 2]):
        picked = net.fast()(leaf)[0].gather(1, torch.tensor([[1], [5], [2]]))
        (gradient,) = torch.autograd.grad(picked.sum(), leaf)
    for n, column in enumerate((1, 5, 2)):
        alone = images[n : n + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(net.fast()(alone)[0][0, column], alone)
        assert (gradient[n] - expected[0]).abs().max() <= 1e-4 * expected.abs().max()

    net = lv.load_network(str(captioner), output="answer")
    with pytest.warns(UserWarning, match="1 skipped"):
        run = lv.saliency(net, photographs, method="gradient", captum="none")
    assert [record.top5[0][0] for record in run.records[1:]] == ["this", "this this this"]
    assert [len(record.top5) for record in run.records[1:]] == [1, 1]


@pytest.mark.filterwarnings("ignore:1 skipped of")
def test_an_attack_scores_each_photograph_on_its_own_text(
    captioner: Path, photographs: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = lv.load_network(str(captioner), output="answer")

    def attacked() -> lv.Run:
        return lv.attack(net, photographs, attack="pgd", goal="vanish", eps="1/255", iterations=3)

    scored.clear()
    own = attacked()
    texts_of_own = sum(scored)
    scored.clear()
    monkeypatch.setattr("lit_viz.methods.adversarial_example.said_columns", lambda tasks: None)
    whole = attacked()
    forwards = sum(record.forwards for record in own.records[1:])
    assert forwards == sum(record.forwards for record in whole.records[1:])
    # Each forward scores one text of two less, but for the first of each photograph, on the original network.
    assert sum(scored) - texts_of_own == forwards - 2
    for record, expected in zip(own.records, whole.records, strict=True):
        assert (record.status, record.text, record.top5) == (expected.status, expected.text, expected.top5)
        assert record.success_file is expected.success_file
    for image, expected in zip(own.images[1:], whole.images[1:], strict=True):
        assert torch.equal(torch.as_tensor(image), torch.as_tensor(expected))


def test_tokens_of_a_target(captioner: Path, photographs: Path) -> None:
    net = lv.load_network(str(captioner), output=Answer(per="token"))
    run = lv.saliency(net, photographs / "3.png", target="a red car", method="gradient", captum="none")
    assert [record.target_name for record in run.records] == ["1 a", "2 red", "3 car", "4 </s>"]


def test_nothing_said_of_all_photographs_is_one_sentence(captioner: Path, photographs: Path) -> None:
    net = lv.load_network(str(captioner), output="answer")
    with pytest.raises(lv.LitVizError, match="the network says nothing of any of 1 photographs: give answers or targ"):
        lv.saliency(net, photographs / "0.png", method="gradient")


@pytest.mark.filterwarnings("ignore:1 skipped of")
def test_shards_of_different_texts_merge(captioner: Path, photographs: Path, tmp_path: Path) -> None:
    net = lv.load_network(str(captioner), output=Answer(per="token"))
    options = {"method": "gradient", "logger": None, "captum": "none", "store": "tar"}
    for shard in ("0/2", "1/2"):
        out = tmp_path / shard[0]
        lv.saliency(net, photographs, out=out, shard=shard, **options)
    merged = lv.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    names = [record.target_name for record in merged.records]
    assert names == [None, "1.1 this", "1.2 </s>", "2.1 this", "2.2 this", "2.3 this", "2.4 </s>"]
    assert lv.check(tmp_path / "merged")


def test_other_runs_require_answers(folders: Any) -> None:
    net = lv.load_network(str(folders("git")), output=Answer())
    with pytest.raises(lv.LitVizError, match="an Answer without answers requires images, got none: give answers"):
        lv.visualize(net, "a red car", iterations=1)


@pytest.mark.parametrize(
    ("family", "vision"),
    [
        ("blip", "vision_model."),
        ("git", "git.image_encoder."),
        ("llava", "model.vision_tower."),
        slow("trocr", "encoder."),
        slow("florence2", "model.vision_tower."),
        slow("paligemma", "model.vision_tower."),
    ],
)
def test_layers_are_those_of_the_vision_tower(family: str, vision: str, folders: Any) -> None:
    net = load(folders(family), family, ["a red car"], end=False)
    (record,) = lv.saliency(net, photograph(1), method="grad_cam", captum="none").records
    assert record.layer.startswith(vision)
    layers = attention_layers(net).layers
    assert layers
    assert all(layer.startswith(vision) for layer in layers)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("blip", "libra_gradient"),
        ("llava", "libra_gradient"),
        ("pix2struct", "gradient"),
        slow("git", "libra_gradient"),
        slow("trocr", "libra_gradient"),
        slow("idefics3", "libra_gradient"),
        slow("paligemma", "libra_gradient"),
        slow("qwen2_5_vl", "gradient"),
    ],
)
def test_auto_is_the_rule_of_transformers_in_the_vision_tower(family: str, method: str, folders: Any) -> None:
    net = load(folders(family), family, ["a red car"], end=False)
    run = lv.saliency(net, photograph(1), captum="captum")
    assert run.records[0].method == method
    assert run.evidence.captum.passed


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next"])
def test_a_vision_tower_without_maps_is_one_sentence(family: str, folders: Any) -> None:
    net = load(folders(family), family, ["a red car"], end=False)
    with pytest.raises(lv.LitVizError, match=r"requires a layer with feature maps .* use gradient"):
        lv.saliency(net, photograph(1), method="grad_cam", captum="none")


def test_settings_that_change_the_text_are_named_in_records(folders: Any, tmp_path: Path) -> None:
    shutil.copytree(folders("git"), tmp_path / "git")
    path = tmp_path / "git" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.5, "min_length": 0}))
    net = load(tmp_path / "git", "git", ["a red car"], end=False)
    (record,) = lv.saliency(net, photograph(1), method="gradient", captum="none").records
    assert record.output_note == "settings of generation change the text: repetition_penalty=1.5"
    assert load(folders("git"), "git").output.note is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*skipped of:UserWarning")  # of photographs of which it says nothing
def test_the_page_runs_on_a_network_of_random_weights(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lit_viz.cli import main

    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photo", "other")):
        save_image(photograph(seed), f"{name}.jpg")
    first = read("answers.md").partition("\n## A recognizer of text\n")[0]
    for code in (("transformers/ORG/NAME", str(folders("blip"))), ("size=384", f"size={SIDE}")):
        first = first.replace(*code)
    names = run("\n".join(blocks(first)), "docs/answers.md")
    (record,) = names["run"].records
    assert record.status in ("done", "skipped")
    assert lv.read(names["net"], "photo.jpg") == [record.text_before]
    commands = re.findall(r"^lit-viz (.*)$", first, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["saliency", "read"]
    for command in commands:
        main([*shlex.split(command), "--network.size", str(SIDE)])
    assert "photo" in capsys.readouterr().out
