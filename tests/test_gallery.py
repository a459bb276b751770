"""Images of the documentation: each exists and has a valid command below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from lit_viz.commands import form_of_words
from lit_viz.launch.form import Form
from lit_viz.launch.methods import METHODS
from lit_viz.utils.parts import construct, hints_of
from lit_viz.utils.yaml_files import config_folder
from scripts import recipes
from scripts.gallery import Card, cards
from tests.support.scripts import run_script

ROOT = Path(__file__).parents[1]
#: Pages with figures that no single command makes: of several runs, and of blocks of Python.
WITHOUT_COMMANDS = [ROOT / "docs" / name for name in ("compare.md", "any_network.md", "answers.md")]
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {*WITHOUT_COMMANDS})]
#: Configurations without an image: they need large downloads or files of the user.
WITHOUT_CARD = {"visualize/vgg16", "saliency/vgg16", "attack/vgg16", "visualize/vit", "visualize/small", "saliency/vit"}
#: Configurations with images like those of another configuration.
SIBLINGS = {"visualize/simonyan_squeezenet1_1", "visualize/thorough", "saliency/gradient"}
FIGURES_OF_ZOO = re.findall(
    r"^def (\w+)\(\) -> Figure:", (ROOT / "scripts" / "zoo_figures.py").read_text(), re.MULTILINE
)
ALL = [card for page in PAGES for card in cards(page)]
ONCE = {tuple(card.words): card for card in ALL}.values()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def parsed(words: list[str]) -> Form:
    """Return the form of a command, without loading its network."""
    command = METHODS[words[0]]
    return form_of_words(command, words[1:])[0]


def config_of(words: list[str]) -> str:
    """Return the name of the configuration of a command, such as ``visualize/maco``."""
    command = METHODS[words[0]]
    named = "channels" if "--layer" in words else command.config
    if "--config" in words:
        named = words[words.index("--config") + 1]
    return f"{command.name}/{named}"


def test_every_image_has_a_command() -> None:
    shown = {page: len(re.findall(r"!\[", page.read_text(encoding="utf-8"))) for page in PAGES}
    assert shown == {page: len(cards(page)) for page in PAGES}
    assert sum(shown.values()) == len(ALL) > 40


def test_every_image_is_on_a_page() -> None:
    shown = {card.picture.resolve() for card in ALL}
    for page in WITHOUT_COMMANDS:
        named = re.findall(r"!\[.*?\]\((images/.*?)\)", page.read_text(encoding="utf-8"))
        shown |= {(ROOT / "docs" / name).resolve() for name in named}
    assert {path.resolve() for path in (ROOT / "docs" / "images").iterdir()} == shown


@pytest.mark.parametrize("card", ONCE, ids=lambda card: card.picture.stem)
def test_the_command_is_valid(card: Card) -> None:
    program, *words = card.words
    if program == "python":
        script, *words = words
        others = {
            "scripts/train_with_probes.py": [],
            "scripts/zoo_figures.py": FIGURES_OF_ZOO,
            "scripts/questions.py": [card.picture.stem.removeprefix("question_")],
            "scripts/rank_saliency.py": ["--write"],
            "scripts/benchmark.py": ["classes", "--rounds", "1"],
        }
        assert script in ("scripts/recipes.py", *others)
        if script in others:
            assert set(words) <= set(others[script])
        else:
            options = recipes.parsed(words)
            assert all(recipes.planned(recipe, [0], options) for recipe in options.recipes)
        return
    assert program == "lit-viz"
    form = parsed(words)
    form.options()
    hints = hints_of(form.module_class)
    for name, value in form.module["init_args"].items():
        construct(value, hints[name], name)


@pytest.mark.slow
def test_the_figure_of_a_question_is_that_of_its_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    named = re.findall(r"python scripts/questions\.py (\w+)", page)
    assert f"choose from {', '.join(named)}" in run_script("questions.py", "none", expect=2).replace("'", "")
    run_script("questions.py", "gray", "--out", tmp_path)
    with Image.open(tmp_path / "figure.png") as drawn, Image.open(ROOT / "docs/images/question_gray.webp") as shown:
        assert drawn.width / drawn.height == pytest.approx(shown.width / shown.height, rel=0.01)


def test_an_image_has_one_command() -> None:
    of: dict[Path, set[str]] = {}
    for card in ALL:
        of.setdefault(card.picture.resolve(), set()).add(" ".join(card.words))
    assert {path.name: words for path, words in of.items() if len(words) > 1} == {}


def test_every_configuration_is_in_the_gallery() -> None:
    shown = {config_of(card.words[1:]) for card in cards(ROOT / "docs" / "gallery.md") if card.words[0] == "lit-viz"}
    every = {f"{path.parent.name}/{path.stem}" for path in config_folder().glob("*/*.yaml")}
    assert every - shown == WITHOUT_CARD | SIBLINGS


def test_cards_are_parsed_from_blocks_and_captions(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '![a](images/a.jpg "evidence.png")\n\n```bash\nlit-viz visualize "brown bear" \\\n    zebra\n```\n\n'
        "![b](b.png)\n\n*What? `lit-viz demo` on a network.*\n\n![c](c.png)\n\nNo command.\n"
    )
    assert cards(page) == [
        Card(tmp_path / "images" / "a.jpg", ["lit-viz", "visualize", "brown bear", "zebra"], "evidence.png"),
        Card(tmp_path / "b.png", ["lit-viz", "demo"], "figure.png"),
    ]
