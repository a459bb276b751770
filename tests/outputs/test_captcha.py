"""Letters and attacks of the CRNN of captcha-whisperer, judged by the package's own recognizer of the saved files."""

from __future__ import annotations

import io
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.networks.onnx_file import read_onnx
from lit_viz.outputs import ReadText
from tests.support.networks import Around
from tests.support.pages import DOCS, blocks, read, run
from tests.support.readers import attacked_file, letter_columns

WORDS = ("2CWK", "7XP3", "KT4M", "HELLO")
START, STEP = 8, 30  # columns of the first letter, and from letter to letter
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),  # of onnx2torch's Slice
]


@pytest.fixture(scope="module")
def whisperer() -> Any:
    for name in ("onnx2torch", "onnxruntime", "captcha_whisperer"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    import captcha_whisperer

    return captcha_whisperer


@pytest.fixture(scope="module")
def recognizer(whisperer: Any) -> nn.Module:
    return Around(read_onnx(whisperer.default_model_path()), lambda net, x: net(x.flip(1))).eval()  # it takes BGR


def load(network: nn.Module, whisperer: Any, texts: Any, **options: Any) -> lv.Network:
    letters = {letter: index for index, letter in enumerate(whisperer.LABELS) if letter not in "0_"}
    output = ReadText(texts, letters, blank=whisperer.BLANK_INDEX, time_first=True, **options)
    return lv.load_network(network, output=output, size=(60, 160), mean=0.0, std=1 / 255)


def rendered(word: str) -> Image.Image:
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf"), 40)
    picture = Image.new("RGB", (160, 60), (240, 238, 235))
    for place, letter in enumerate(word):
        ImageDraw.Draw(picture).text((START + STEP * place, 6), letter, font=font, fill=(40, 60, 120))
    return picture


def test_it_reads_as_the_package_does(recognizer: nn.Module, whisperer: Any) -> None:
    net = load(recognizer, whisperer, list(WORDS))
    for word in WORDS:
        file = io.BytesIO()
        rendered(word).save(file, "PNG")
        assert lv.read(net, rendered(word)) == [word] == [whisperer.recognize(file.getvalue())]


def test_each_letter_is_explained_by_its_own_pixels(recognizer: nn.Module, whisperer: Any) -> None:
    right = 0
    for word in WORDS:
        net = load(recognizer, whisperer, word, per="letter")
        for place, columns in enumerate(letter_columns(net, rendered(word), word)):
            sums = [float(columns[START + STEP * n :][:STEP].sum()) for n in range(len(word))]
            right += sums.index(max(sums)) == place
    assert right >= 15  # of 17


def test_an_attack_is_read_as_another_word_by_the_package(
    recognizer: nn.Module, whisperer: Any, tmp_path: Path
) -> None:
    net = load(recognizer, whisperer, ["2CWK", "2CAT"])
    file = attacked_file(net, rendered("2CWK"), "2CWK", "2CAT", tmp_path / "run")
    assert whisperer.recognize(file) == "2CAT"


def test_the_page_has_the_readings_of_the_package(
    whisperer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = read("answers.md").partition("\n## A recognizer of text\n")[2]
    network, letters, attack = blocks(section)
    names = run(network, "docs/answers.md")
    assert lv.read(names["net"], ["2CWK.png", "3141.png"]) == ["2CWK", "3747"]
    run(letters, "docs/answers.md", names)
    assert [record.text for record in names["run"].records] == ["3747"] * 4
    pixels = np.array(Image.open("3141.png"))
    ground = pixels[0, 0]
    for place in (1, 3):  # both sevens
        brightest = np.argsort(np.asarray(names["run"].maps[place]).ravel())[-19:]
        pixels.reshape(-1, 3)[brightest] = ground
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert whisperer.recognize(file.getvalue()) == "3141"
    run(attack, "docs/answers.md", names)
    (record,) = names["run"].records
    assert (record.text_before, record.text, record.success_file) == ("2CWK", "2CAT", True)
    saved = names["run"].save(tmp_path / "attack")
    assert whisperer.recognize(tmp_path / "attack" / str(saved.records[0].file)) == "2CAT"
    (line,) = re.findall(r"^`(output = .*)`", section, re.MULTILINE)
    (tmp_path / "recognizer.py").write_text(f"{network.partition('def load')[0]}{line}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = re.findall(r"^lit-viz (.*)$", section, re.MULTILINE)
    main(shlex.split(command))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [["2CWK", "2CWK"], ["3141", "3747"]]
    assert all((DOCS / "images" / f"answers_{name}.jpg").stat().st_size < 150_000 for name in ("letters", "attack"))
