"""A command-line parser with the arguments of classes and functions as options, described by their docstrings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from docstring_parser import parse as parse_docstring

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.early import Option, Words, read_words, unknown_option
from lit_viz.types import VARYING
from lit_viz.utils.checking import choices_of, described, matches, types_of
from lit_viz.utils.files import non_utf8_name_error
from lit_viz.utils.owners import Owner
from lit_viz.utils.parts import classes_in, constructor_parameters, hints_of
from lit_viz.utils.sequences import as_list
from lit_viz.utils.yaml_files import parse_yaml

#: Number of choices of an option up to which its help lists them in place of a value.
_MOST_CHOICES = 6
#: Arguments of one or several names, whose option adds them if it is given again; others take the last value.
_COLLECTED = ("target", "label", "against", "images", "method", "logger", "to", "tags")
#: Docstring markup, and its replacement in the help.
_MARKUP = ((r":[\w:]+:`~?(?:\w+\.)*(\w+)`", r"\1"), (r"``(.*?)``", r"\1"), (r"\s+", " "))


@dataclass(frozen=True)
class CommandOption:
    """An option of a command: an argument of a class or function, or a word of the command itself.

    Attributes:
        name: its name in the values of a command, ``attack.pgd.eps``.
        words: its words with dashes, ``--attack.pgd.eps``; of a flag the negations too.
        title: section of the help.
        owner: what receives the argument; None of a word of the command itself.
        argument: name of the argument.
        hint: annotated type.
        default: of the argument.
        values: number of values: ``0`` of a flag, ``1``, or ``+`` of several words.
        is_shown: whether the help shows it.
        text: description, if it is not that of the docstring.
    """

    name: str
    words: tuple[str, ...]
    title: str
    owner: Owner | None = None
    argument: str = ""
    hint: Any = str
    default: Any = None
    values: str = "1"
    is_shown: bool = True
    text: str = ""

    def read(self, texts: Sequence[str], word: str) -> Any:
        """Return the value of the texts that the option was given, by the word ``word``."""
        if self.values == "0":
            return not texts[-1].startswith(("--no-", "--no_"))
        read = [read_text(text, self.hint, word) for text in texts]
        if self.argument not in _COLLECTED and self.values != "+":
            return read[-1]
        value = read[0]
        for other in read[1:]:
            value = [*as_list(value), *as_list(other)]
        return value


class Parser:
    """A parser with the arguments of classes and functions as options.

    Args:
        command: name of the command.
        usage: its words in the first line of the help.
        summary: its description.
        example: its words in the example of the help.

    Attributes:
        entries: the options by name, in the order of the help.
        positional: argument that receives the positional words; empty without one.
        names: names that the values of an option may have, by its own name; its help and its completion list them.
        texts: descriptions that replace docstrings, by name.
        defaults: values of a configuration, by name, which the help shows in brackets as the other defaults; None to
            show no defaults, if they depend on a run or on several configurations.
        hidden: names that the help does not show.
        describe: completes what the help alone needs.
        form: form of the configuration and the parts of a method; None of another command.
    """

    def __init__(self, command: str, usage: str = "", summary: str = "", example: str = "") -> None:
        self.command, self.usage = command, f"lit-viz {command} {usage}".rstrip()
        self.description, self.example = summary, example
        self.entries: dict[str, CommandOption] = {}
        self.taken: set[str] = set()
        self.positional, self.positional_text, self.takes_several = "", "", False
        self.names: dict[str, list[str]] = {}
        self.texts: dict[str, str] = {}
        self.defaults: dict[str, Any] | None = {}
        self.hidden: Collection[str] = ()
        self.describe: Callable[[], None] = _nothing
        self.form: Any = None

    def add(
        self,
        title: str,
        owner: Owner | Any,
        *,
        prefix: str = "",
        short: Collection[str] = (),
        skip: Collection[str] = (),
        only: Collection[str] | None = None,
        shown: Collection[str] | None = None,
    ) -> None:
        """Add an option for each argument of a class or function that has none yet.

        Args:
            title: title of the section in the help; options under the same title are one section.
            owner: the class or function, or what receives arguments in a form.
            prefix: of the names, such as ``attack.``.
            short: arguments that are options without the prefix too.
            skip: arguments without an option.
            only: arguments with an option; all if None.
            shown: names in the help; all if None.
        """
        receiver = owner if isinstance(owner, Owner) else Owner("", owner, ())
        parameters = constructor_parameters(receiver.kind)
        for argument, hint in hints_of(receiver.kind).items():
            name = f"{prefix}{argument}"
            if argument in skip or (only is not None and argument not in only) or name in self.taken:
                continue
            names = [name]
            if prefix and argument in short and argument not in self.taken:
                names = [argument, name]
            self.taken.update(names)
            words = [f"--{spelled.replace('_', '-')}" for spelled in names]
            default = parameters[argument].default
            values = "1"
            if isinstance(default, bool):
                values = "0"
                positive, words = words, []
                for word in positive:
                    words += [word, f"--no-{word[2:]}"]
            elif argument in VARYING and not _admits_list(hint):
                hint = hint | Sequence[float]
            is_shown = shown is None or name in shown
            self.entries[name] = CommandOption(
                name, tuple(words), title, receiver, argument, hint, default, values, is_shown
            )

    def add_word(self, title: str, name: str, text: str, hint: Any = bool) -> None:
        """Add an option that is no argument: a flag, or with another type one of several words."""
        self.taken.add(name)
        values = "0" if hint is bool else "+"
        words = (f"--{name.replace('_', '-')}",)
        self.entries[name] = CommandOption(name, words, title, hint=hint, values=values, text=text)

    def add_positional(self, name: str, text: str = "", *, several: bool = False) -> None:
        """Add the positional words, which are the value of an argument that may be an option too."""
        self.positional, self.positional_text, self.takes_several = name, text, several

    # Values

    def read(self, words: Sequence[str]) -> Words:
        """Return words by what they are; some may be unknown."""
        table: dict[str, Option] = {}
        for option in self.entries.values():
            for word in option.words:
                table[word] = Option(option.name, option.values)
        return read_words(self.command, words, table)

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the values of the options and positional words that are given, by name.

        Raises:
            LitVizError: an option is unknown, or has no value or another one than its argument admits.
        """
        read = self.read(words)
        values = {name: self.entries[name].read(texts, read.spelled[name]) for name, texts in read.given.items()}
        if read.unknown:
            raise self.unknown(read.unknown)
        listed = list(read.positional)
        if not listed:
            return values
        if not self.takes_several and len(listed) > bool(self.positional):
            raise self.unknown(listed[bool(self.positional)])
        for word in listed:
            wrong_name = non_utf8_name_error(word)
            if wrong_name:
                raise LitVizError(wrong_name)
        if self.positional in values:
            raise LitVizError(f"{self.positional} must be given once, got {', '.join(listed)} and an option")
        hint = self.entries[self.positional].hint if self.positional in self.entries else str
        typed = [_typed(word, types_of(hint)) for word in listed]
        values[self.positional] = typed if self.takes_several else typed[0]
        return values

    def unknown(self, word: str) -> LitVizError:
        """Return the error about a word that is no option."""
        self.describe()
        known: list[str] = []
        hidden: list[str] = []
        for option in self.entries.values():
            (known if self._is_shown(option) else hidden).extend(option.words)
        return unknown_option(f"lit-viz {self.command}", word, known, hidden)

    def _is_shown(self, option: CommandOption) -> bool:
        return option.is_shown and option.name not in self.hidden

    # Help

    def sections(self) -> dict[str, list[CommandOption]]:
        """Return the options that the help shows, by the title of their section."""
        self.describe()
        sections: dict[str, list[CommandOption]] = {}
        for option in self.entries.values():
            if self._is_shown(option):
                sections.setdefault(option.title, []).append(option)
        return sections

    def format_help(self) -> str:
        """Return the help of the command."""
        return self.shell_parser(every=False).format_help()

    def shell_parser(self, *, every: bool = True) -> argparse.ArgumentParser:
        """Return the parser of argparse with the texts of the help, and with the names of values, which a shell
        completes.

        Args:
            every: whether it has the options that the help does not show.
        """
        self.describe()
        parser = argparse.ArgumentParser(
            prog=f"lit-viz {self.command}",
            usage=self.usage,
            description=self.description,
            epilog=f"Example: lit-viz {self.command} {self.example}" if self.example else None,
            formatter_class=partial(_Formatter, max_help_position=28, width=100),
            add_help=False,
        )
        if self.positional:
            number = "*" if self.takes_several else "?"
            text = _escaped(self.positional_text)
            parser.add_argument("positional", nargs=number, metavar=self.positional.upper(), help=text)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for option in self.entries.values():
            is_shown = self._is_shown(option)
            if not (is_shown or every):
                continue
            if option.title not in groups:
                groups[option.title] = parser.add_argument_group(option.title)
            help_text = _escaped(self.help_of(option)) if is_shown else argparse.SUPPRESS
            if option.values == "0":
                groups[option.title].add_argument(*option.words, dest=option.name, action="store_true", help=help_text)
                continue
            action = groups[option.title].add_argument(
                *option.words, dest=option.name, metavar=_metavar(option), help=help_text
            )
            if every:
                action.choices = self.names.get(option.name) or choices_of(option.hint) or None
        return parser

    def help_of(self, option: CommandOption) -> str:
        """Return the description of an option, the names of its values, and its default in brackets."""
        text = option.text
        if option.owner is not None:
            text = helps_of(option.owner.documented or option.owner.kind).get(option.argument, "")
        text = self.texts.get(option.name, text)
        if self.defaults is None:
            return text
        words = [text]
        if option.name in self.names:
            words.append(f"Names: {', '.join(self.names[option.name])}.")
        default = option.default
        if option.name in self.defaults:
            default = self.defaults[option.name]
        elif re.search(r"default", text, re.IGNORECASE):  # which the text states
            default = None
        if isinstance(default, (str, int, float)) and not isinstance(default, bool) and default != "":
            words.append(f"[{default}]")
        return " ".join(filter(None, words))


def _nothing() -> None:
    """Complete nothing."""


class _Formatter(argparse.HelpFormatter):
    """Help with the value of an option once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        text = ", ".join(action.option_strings)
        return f"{text} {action.metavar}" if action.metavar else text


def option_text(option: CommandOption) -> str:
    """Return the words of an option and its value, as the help shows them: ``--lr, --step-rule.lr LR``."""
    text = ", ".join(option.words)
    return text if option.values == "0" else f"{text} {_metavar(option)}"


def _admits_list(hint: Any) -> bool:
    return any(get_origin(kind) in (list, tuple, Sequence) for kind in types_of(hint))


# -- values


def read_text(text: str, hint: Any, name: str) -> Any:
    """Return the value of an option's text, by the annotated type of its argument.

    Raises:
        LitVizError: the argument does not admit the value.
    """
    if text[:1] in ("[", "{"):
        value = _with_numbers(parse_yaml(text, name))
    else:
        value = _typed(text, types_of(hint))
    if classes_in(hint):  # checked when the part is made
        return value
    if not matches(value, hint):
        choices = choices_of(hint)
        near = did_you_mean(text, choices) if choices else ""
        raise LitVizError(f"{name} must be {described(hint)}, got {text!r}{near}")
    return value


def _typed(text: str, kinds: Sequence[Any]) -> Any:
    takes_text = str in kinds
    if text == "null" and type(None) in kinds:
        return None
    if text in ("true", "false") and bool in kinds:
        return text == "true"
    is_code = takes_text and re.fullmatch(r"0\d+", text)  # as text that is read may be
    number = None if is_code else _number(text, kinds)
    if number is not None:
        return number
    if takes_text or Path in kinds or any(get_origin(kind) is Literal for kind in kinds):
        return text
    lists = [kind for kind in kinds if get_origin(kind) in (list, tuple, Sequence)]
    has_single = len(lists) < len([kind for kind in kinds if kind is not type(None)])
    if lists and ("," in text or not has_single):
        flat: list[Any] = []
        for kind in lists:
            for element in get_args(kind):
                if element is not Ellipsis:
                    flat += types_of(element)
        return [_typed(word.strip(), flat) for word in text.split(",")]
    return text if Any not in kinds else _with_numbers(parse_yaml(text, text))


def _number(text: str, kinds: Sequence[Any]) -> int | float | None:
    """Return a whole number or a number, if the argument admits it."""
    is_any = Any in kinds
    if (int in kinds or float in kinds or is_any) and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if float in kinds or is_any:
        try:
            return float(text)
        except ValueError:
            return None
    return None


def _with_numbers(value: Any) -> Any:
    """Return a value of YAML with numbers such as 1e-3, which YAML 1.1 reads as text."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", value):
        return float(value)
    return value


# -- descriptions


def _metavar(option: CommandOption) -> str:
    """Return the choices of an option, or its name where it has none or many."""
    choices = choices_of(option.hint)
    if 0 < len(choices) <= _MOST_CHOICES:
        return "|".join(choices)
    return (option.argument or option.name.rpartition(".")[2]).upper()


@cache
def helps_of(target: Any) -> dict[str, str]:
    """Return the descriptions of arguments in docstrings, including base classes, without markup.

    What follows ``In Python`` is for readers of the docstring alone.
    """
    texts = [target.__doc__]
    if isinstance(target, type):
        texts = []
        for kind in target.__mro__:
            texts += [kind.__doc__, kind.__init__.__doc__]  # type: ignore[misc]
    helps: dict[str, str] = {}
    for documented in texts:
        for parameter in parse_docstring(documented or "").params:
            text = re.split(r"\sIn\sPython\s", parameter.description or "")[0]
            for pattern, replacement in _MARKUP:
                text = re.sub(pattern, replacement, text)
            for name in parameter.arg_name.split(","):
                helps.setdefault(name.strip(), text.strip())
    return helps


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
