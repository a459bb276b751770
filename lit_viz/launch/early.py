"""Errors of a command line that are reported before torch is imported: options, names, files, folders and classes.

``help/options.json`` has the options of each command, written from its parser by ``scripts/write_help.py``. The
parser and the parts report other errors.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from lit_viz.errors import OTHER_NAMES, LitVizError, did_you_mean, find_part
from lit_viz.launch.specs import METHODS, MethodSpec
from lit_viz.utils.files import missing_file_error, missing_weights_error, non_utf8_name_error, packaged_photograph
from lit_viz.utils.labels import find_class, imagenet_labels
from lit_viz.utils.zoo_names import check_zoo_name, trained_names, zoo_labels

#: Prefixes of images that are no files.
_NAMED_IMAGES = ("packaged:", "zoo:", "array:")
#: Commands whose positional word is the folder of a run, or words are those of several.
_OF_RUNS = ("check", "compare", "resume", "log")
#: Commands whose positional words are folders, and options that they require.
_OF_FOLDERS = ("status", "merge")
_REQUIRED = {"merge": ("out",), "microscope": ("layers", "images", "out")}
#: Options whose value is a class, or several.
_CLASSES = ("target", "label", "against")
#: Values of these options that are no classes.
_NO_CLASSES = ("label", "predicted", "folders", "random", "least-likely", "runner-up", "none")
#: Networks with the classes of ImageNet that need no weights of the user.
_IMAGENET_NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_DEFAULT_NETWORK = "efficientnet_lite0"
_ZOO, _TORCHVISION = "zoo/", "torchvision/"


@dataclass(frozen=True)
class Option:
    """An option in the table.

    Attributes:
        name: its argument, ``method.smoothgrad.sigma``.
        values: number of values: none of a flag, one, or ``+`` of several words.
        shown: whether the help shows it.
        names: names of the part that its value chooses; empty if it is no part.
        choices, described: the words that it takes, and how a message describes them; empty if it takes others.
    """

    name: str
    values: str = "1"
    shown: bool = True
    names: Sequence[str] = ()
    choices: Sequence[str] = ()
    described: str = ""


@dataclass(frozen=True)
class Words:
    """The words of a command, by the table of its options.

    Attributes:
        positional: words that are neither an option nor its value.
        given: texts by argument, in their order.
        spelled: how the option of an argument was last given, ``--log_at``.
        unknown: the first word that is no option in the table; empty without one.
    """

    positional: Sequence[str]
    given: Mapping[str, Sequence[str]]
    spelled: Mapping[str, str]
    unknown: str


class WordParser(argparse.ArgumentParser):
    """A parser of the words of a command, whose errors are :class:`LitVizError`.

    Args:
        command: name of the command.
        options: of the base class.
    """

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(
            prog=f"lit-viz {command}", allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS, **options
        )
        self._negative_number_matcher = re.compile(r"-[\d.][\d.,e/-]*$")  # values such as -1,-1 are no options

    def error(self, message: str) -> NoReturn:
        """Raise an error of argparse as one sentence."""
        missing = re.fullmatch(r"argument (\S+?)(?:/\S+)?: expected (?:one|at least one) argument", message)
        if missing:
            raise LitVizError(f"{missing[1]} expects a value")
        flag = re.fullmatch(r"argument (\S+?)(?:/\S+)?: ignored explicit argument (.*)", message)
        if flag:
            raise LitVizError(f"{flag[1]} takes no value, got {flag[2]}")
        raise LitVizError(message)

    def parsed(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the values of the words, and the unknown words."""
        try:
            return self.parse_known_intermixed_args(list(words))
        except argparse.ArgumentError as error:
            self.error(str(error))


class _Collected(argparse.Action):
    """Collect the texts of an option with its spelling; of a flag the spelling."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        texts = [values] if isinstance(values, str) else values or [option_string]
        pairs = getattr(namespace, self.dest, [])
        setattr(namespace, self.dest, [*pairs, *((option_string, text) for text in texts)])


def check_words(command: str, words: Sequence[str]) -> None:
    """Check the words of a command line, as far as this is possible without torch.

    Raises:
        LitVizError: an option is unknown; a part, a configuration, a file, a folder or a class does not exist.
    """
    options = options_of(command)
    if not options:  # of a command that is defined elsewhere
        return
    read = read_words(command, words, options)
    parts_are_packaged = _check_parts(command, read, options)
    has_others = command == "resume" or not parts_are_packaged  # options of the run, or of a user's part
    if read.unknown and not has_others:
        visible = [word for word, option in options.items() if option.shown]
        hidden = [word for word, option in options.items() if not option.shown]
        raise unknown_option(f"lit-viz {command}", read.unknown, visible, hidden)
    _check_choices(read, options)
    if command in _OF_RUNS:
        _check_runs(read.positional if command == "compare" else read.positional[:1])
    if read.unknown:  # which may have a value
        return
    _check_network(read)
    for name in _REQUIRED.get(command, ()):
        if name not in read.given:
            raise LitVizError(f"lit-viz {command} requires --{name}: see lit-viz {command} --help")
    if command in _OF_FOLDERS:
        for folder in read.positional:
            if not Path(folder).exists():
                raise LitVizError(missing_file_error(folder, "folder"))
    spec = METHODS.get(command)
    if spec is None:
        return
    if spec.positional == "images":
        _check_files([*read.positional, *read.given.get("images", ())])
    _check_out(read)
    if parts_are_packaged:
        _check_classes(spec, read)


@cache
def options_of(command: str) -> Mapping[str, Option]:
    """Return the options of a command by their word, ``--out``."""
    table = json.loads((Path(__file__).parent / "help" / "options.json").read_text(encoding="utf-8"))
    options: dict[str, Option] = {}
    for entry in table["commands"].get(command, ()):
        names = table["names"].get(entry.get("part"), ())
        choices, described = entry.get("choices", ()), entry.get("described", "")
        options[entry["word"]] = Option(
            entry["name"], entry.get("values", "1"), entry.get("shown", False), names, choices, described
        )
    return options


def read_words(command: str, words: Sequence[str], options: Mapping[str, Option]) -> Words:
    """Return the words of a command by what they are.

    Args:
        command: name of the command.
        words: the words.
        options: by their word, which may be given with underscores too.

    Raises:
        LitVizError: an option has no value.
    """
    parser = WordParser(command)
    parser.add_argument("positional", nargs="*")
    for word, option in options.items():
        spellings = dict.fromkeys((word, f"--{word[2:].replace('-', '_')}"))
        numbers = {"0": 0, "1": None, "+": "+"}
        parser.add_argument(*spellings, dest=option.name, action=_Collected, nargs=numbers[option.values])
    namespace, unknown = parser.parsed(words)
    values = dict(vars(namespace))
    positional = values.pop("positional", [])
    given: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for name, pairs in values.items():
        given[name] = [text for _, text in pairs]
        spelled[name] = pairs[-1][0]
    return Words(positional, given, spelled, unknown[0] if unknown else "")


def _check_parts(command: str, read: Words, options: Mapping[str, Option]) -> bool:
    """Check the names of parts and configurations; return whether all are packaged, so that the table is complete."""
    are_packaged = True
    named = {option.name: option for option in options.values() if option.names}
    for argument, option in named.items():
        for text in _single_names(read.given.get(argument, ())):
            if argument == "config" and text.endswith(".yaml") and not Path(text).exists():
                raise unknown_configuration(text, option.names)
            if not text.replace("_", "").replace("-", "").isalnum():  # a path of a class, or YAML
                are_packaged = False
            elif argument == "config":
                if not Path(text).exists() and text not in option.names:
                    raise unknown_configuration(text, option.names)
                are_packaged = are_packaged and text in option.names
            else:
                find_part(text, dict.fromkeys(option.names, object), argument.rpartition(".")[2])
    return are_packaged


def _check_choices(read: Words, options: Mapping[str, Option]) -> None:
    """Check the values of options that take one of some words."""
    for option in options.values():
        text = read.given.get(option.name, ("null",))[-1]
        if option.choices and text not in (*option.choices, "null"):
            hint = did_you_mean(text, option.choices)
            raise LitVizError(f"{read.spelled[option.name]} must be {option.described}, got {text!r}{hint}")


def _single_names(texts: Iterable[str]) -> Iterator[str]:
    """Yield the names in values such as ``gradient,smoothgrad``."""
    for text in texts:
        if text.startswith(("[", "{")):
            yield text
        else:
            yield from filter(None, map(str.strip, text.split(",")))


def unknown_option(program: str, word: str, visible: Sequence[str], hidden: Sequence[str]) -> LitVizError:
    """Return the error about a word that is no option.

    Args:
        program: the command, ``lit-viz saliency``.
        word: the word, ``--metod=gradient``.
        visible: words of the options in the help.
        hidden: words of other options.
    """
    visible, hidden = _without_negations(visible), _without_negations(hidden)
    if not word.startswith("--"):
        if word.startswith("-"):
            return LitVizError(f"unrecognized option {word}: options start with two dashes, such as --out")
        return LitVizError(f"{program} takes no more words, got {word!r}: see {program} --help")
    given = word.split("=")[0]
    name = given.replace("_", "-")
    prefix, dot, last = name[2:].rpartition(".")
    section = f"--{prefix}{dot}"  # --method.smoothgrad.
    other = "alpha" if last == "lr" else OTHER_NAMES.get(last.replace("-", "_"))
    if other is not None and f"--{other}" in visible:
        return LitVizError(f"{name} is not available: use --{other}")
    in_section = [option.removeprefix(section) for option in (*visible, *hidden) if dot and option.startswith(section)]
    hint = did_you_mean(last, [f"--{option}" for option in in_section]).replace("--", section)
    hint = hint or did_you_mean(name, visible) or did_you_mean(name, hidden)
    return LitVizError(f"unrecognized option {given}{hint or f': see {program} --help'}")


def _without_negations(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("--no-")]


def unknown_configuration(name: str, packaged: Sequence[str]) -> LitVizError:
    """Return the error about a name that is no configuration."""
    hint = did_you_mean(name, packaged) or f": give a YAML file or one of {', '.join(packaged)}"
    return LitVizError(f"there is no configuration {name}{hint}")


def _check_runs(folders: Sequence[str]) -> None:
    from lit_viz.runs.access import check_is_run

    for folder in folders:
        check_is_run(folder)


def _check_files(images: Sequence[str]) -> None:
    for image in images:
        wrong_name = non_utf8_name_error(image)
        if wrong_name:
            raise LitVizError(wrong_name)
        if image.startswith("packaged:"):
            packaged_photograph(image.removeprefix("packaged:"))
        if not image.startswith((*_NAMED_IMAGES, "[", "{")) and "," not in image and not Path(image).exists():
            raise LitVizError(missing_file_error(image, "photograph or folder"))


def _check_out(read: Words) -> None:
    """Check that a run may be made in the folder of ``--out``."""
    from lit_viz.runs.access import check_usable

    goes_on = read.given.keys() & {"overwrite", "resume", "shard", "count", "print_config"}
    if not goes_on:
        for folder in filter(None, read.given.get("out", ())[-1:]):
            check_usable(Path(folder))


def _check_classes(spec: MethodSpec, read: Words) -> None:
    """Check classes of a network whose classes are known by its name."""
    of_network = [name for name in read.given if name.partition(".")[0] in ("network", "config", "layer", "objective")]
    labels = _labels_of(read.given.get("network", (_DEFAULT_NETWORK,))[-1])
    if of_network not in ([], ["network"]) or not labels:
        return
    texts = list(read.positional) if spec.positional == "target" else []
    for argument in _CLASSES:
        texts += read.given.get(argument, ())
    for text in texts:
        is_one = "," not in text and not text.startswith(("[", "{"))
        if is_one and text not in _NO_CLASSES and not _is_file(text):
            find_class(text, labels)


def _labels_of(network: str) -> Sequence[str]:
    """Return the classes of a network that its name tells; of others an empty tuple."""
    if network in _IMAGENET_NETWORKS or network.startswith(_TORCHVISION):  # whose classifiers are of ImageNet
        return imagenet_labels()
    if network.startswith(_ZOO):
        return zoo_labels(network.removeprefix(_ZOO))
    return ()


def _check_network(read: Words) -> None:
    """Check the name of a network of the zoo, and the file of weights."""
    for network in read.given.get("network", ()):
        if network.startswith(_ZOO):
            check_zoo_name(network.removeprefix(_ZOO), trained_names())
    for weights in read.given.get("network.weights", ()):
        if weights not in ("DEFAULT", "none", "null", "") and not Path(weights).exists():
            raise LitVizError(missing_weights_error(weights))


def _is_file(text: str) -> bool:
    """Return whether a text is a table of classes, or another file."""
    return Path(text).suffix != "" or Path(text).exists()
