"""A command-line parser with the arguments of classes and functions as options, described by their docstrings."""

from __future__ import annotations

import argparse
import re
from argparse import SUPPRESS
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from docstring_parser import parse as parse_docstring

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.early import WordParser, unknown_option
from lit_viz.types import VARYING
from lit_viz.utils.checking import choices_of, described, matches, types_of
from lit_viz.utils.files import non_utf8_name_error
from lit_viz.utils.parts import classes_in, constructor_parameters, hints_of
from lit_viz.utils.yaml_files import parse_yaml

#: Number of choices of an option up to which its help lists them in place of a value.
_MOST_CHOICES = 6
#: Arguments of one or several names, whose option adds them if it is given again; others take the last value.
_COLLECTED = ("target", "label", "against", "images", "method", "logger", "to", "tags")
#: Docstring markup, and its replacement in the help.
_MARKUP = ((r":[\w:]+:`~?(?:\w+\.)*(\w+)`", r"\1"), (r"``(.*?)``", r"\1"), (r"\s+", " "))


class Parser(WordParser):
    """A parser with the arguments of classes and functions as options.

    Args:
        command: name of the command.
        usage: its words in the first line of the help.
        summary: its description.
        example: its words in the example of the help.

    Attributes:
        names: names that the values of an option may have, by its own name; its help and its completion list them.
        texts: descriptions that replace docstrings, by name.
        defaults: values of a configuration, by name, which the help shows in brackets as the other defaults; None to
            show no defaults, if they depend on a run or on several configurations.
        form: form of the configuration and the parts of a method; None of another command.
    """

    def __init__(self, command: str, usage: str = "", summary: str = "", example: str = "") -> None:
        super().__init__(
            command,
            usage=f"lit-viz {command} {usage}".rstrip(),
            description=summary,
            epilog=f"Example: lit-viz {command} {example}" if example else None,
            formatter_class=partial(_Formatter, max_help_position=28, width=100),
        )
        self.taken: set[str] = set()
        self.positional = ""
        self.names: dict[str, list[str]] = {}
        self.texts: dict[str, str] = {}
        self.defaults: dict[str, Any] | None = {}
        self.form: Any = None
        self._sections: dict[str, argparse._ArgumentGroup] = {}

    def add(
        self,
        title: str,
        target: Any,
        *,
        prefix: str = "",
        short: Collection[str] = (),
        skip: Collection[str] = (),
        only: Collection[str] | None = None,
        shown: Collection[str] | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        """Add an option for each argument of a class or function that has none yet.

        Args:
            title: title of the section in the help; options under the same title are one section.
            target: the class or function.
            prefix: of the names, such as ``attack.``.
            short: arguments that are options without the prefix too.
            skip: arguments without an option.
            only: arguments with an option; all if None.
            shown: names in the help; all if None.
            hidden: names that are not in the help.
        """
        group = self.section(title)
        helps, parameters = helps_of(target), parameters_of(target)
        for name, hint in hints_of(target).items():
            dest = f"{prefix}{name}"
            if name in skip or (only is not None and name not in only) or dest in self.taken:
                continue
            self.taken.add(dest)
            names = [dest]
            if prefix and name in short and name not in self.taken:
                names = [name, dest]
                self.taken.add(name)
            is_hidden = name in hidden or (shown is not None and dest not in shown)
            default = parameters[name].default
            help_text = SUPPRESS if is_hidden else self._help_of(dest, helps.get(name, ""), default)
            if name in VARYING and not _admits_list(hint):
                hint = hint | Sequence[float]
            options = [f"--{spelled}" for word in names for spelled in _spellings(word)]
            if isinstance(default, bool):
                group.add_argument(*options, dest=dest, action=argparse.BooleanOptionalAction, help=_escaped(help_text))
                continue
            group.add_argument(
                *options,
                dest=dest,
                action=_Typed,
                hint=hint,
                is_collected=name in _COLLECTED,
                metavar=_metavar(name, hint),
                help=_escaped(help_text),
            )

    def _help_of(self, dest: str, text: str, default: Any) -> str:
        """Return the description of an option, the names of its values, and its default in brackets."""
        text = self.texts.get(dest, text)
        if self.defaults is None:
            return text
        words = [text]
        if dest in self.names:
            words.append(f"Names: {', '.join(self.names[dest])}.")
        if dest in self.defaults:
            default = self.defaults[dest]
        elif re.search(r"default", text, re.IGNORECASE):  # which the text states
            default = None
        if isinstance(default, (str, int, float)) and not isinstance(default, bool) and default != "":
            words.append(f"[{default}]")
        return " ".join(filter(None, words))

    def described(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        """Yield the sections of the help with their options that it shows."""
        for group in self._action_groups:
            actions = [action for action in group._group_actions if action.option_strings and action.help != SUPPRESS]
            if actions:
                yield str(group.title), actions

    def add_choices(self) -> None:
        """Give each option the names of its values, which a shell completes; the parser then accepts no others."""
        for action in self._actions:
            if isinstance(action, _Typed):
                action.choices = self.names.get(action.dest) or choices_of(action.hint) or None

    def section(self, title: str) -> argparse._ArgumentGroup:
        """Return the section of the help with a title."""
        if title not in self._sections:
            self._sections[title] = self.add_argument_group(title)
        return self._sections[title]

    def add_varying(self, names: Sequence[str]) -> None:
        """Add an option ``--vary.NAME`` for each argument of several values, which are ``a b`` or ``a,b``."""
        for name in names:
            dest = f"vary.{name}"
            self.taken.add(dest)
            self.section("What").add_argument(
                f"--{dest}",
                dest=dest,
                action=_Typed,
                nargs="+",
                hint=Sequence[float | int | str],
                is_collected=True,
                metavar=name.upper(),
                help=f"values of {name}, a task for each, as of vary.",
            )

    def add_positional(self, name: str, text: str, *, several: bool = False) -> None:
        """Add the positional words, which are the value of an argument that may be an option too."""
        self.positional = name
        self.add_argument("positional", nargs="*" if several else "?", metavar=name.upper(), help=_escaped(text))

    def positional_words(self, words: Sequence[str]) -> Any:
        """Return the positional words among words of which some may be unknown; None without any."""
        return getattr(self.parsed(words)[0], "positional", None)

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the values of the options and positional words that are given, by name.

        Raises:
            LitVizError: an option is unknown, or has no value or another one than its argument admits.
        """
        given, unknown = self.parsed(words)
        for word in unknown:
            raise self.unknown(word)
        values = dict(vars(given))
        positional = values.pop("positional", None)
        if not positional:
            return values
        listed = _as_list(positional)
        for word in listed:
            wrong_name = non_utf8_name_error(word)
            if wrong_name:
                raise LitVizError(wrong_name)
        if self.positional in values:
            raise LitVizError(f"{self.positional} must be given once, got {', '.join(listed)} and an option")
        kinds = types_of(self._positional_hint())
        read = [_typed(word, kinds) for word in listed]
        values[self.positional] = read if isinstance(positional, list) else read[0]
        return values

    def _positional_hint(self) -> Any:
        """Return the type of the positional words: that of the option of the same name, if there is one."""
        for action in self._actions:
            if isinstance(action, _Typed) and action.dest == self.positional:
                return action.hint
        return str

    def unknown(self, word: str) -> LitVizError:
        """Return the error about a word that is no option."""
        known: list[str] = []
        hidden: list[str] = []
        for action in self._actions:
            words = hidden if action.help == SUPPRESS else known
            words += dashed_words(action)
        return unknown_option(self.prog, word, known, hidden)


def dashed_words(action: argparse.Action) -> list[str]:
    """Return the words of an option, each in its spelling with dashes."""
    return [option for option in action.option_strings if "_" not in option]


def _spellings(name: str) -> list[str]:
    """Return an option with dashes, and with underscores as in Python."""
    if "_" not in name:
        return [name]
    return [name.replace("_", "-"), name]


class _Formatter(argparse.HelpFormatter):
    """Help with one spelling of each option, and its value once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return option_text(action)


def option_text(action: argparse.Action) -> str:
    """Return the names of an option and its value, as the help shows them: ``--lr, --step-rule.lr LR``."""
    names = [name for name in action.option_strings if "_" not in name]
    text = ", ".join(names)
    return f"{text} {action.metavar}" if action.metavar else text


class _Typed(argparse.Action):
    """Store the value of an option in the annotated type.

    Args:
        hint: annotated type.
        is_collected: whether values of an option that is given again are added; otherwise the last one replaces them.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, hint: Any, is_collected: bool, **options: Any) -> None:
        super().__init__(option_strings, dest, **options)
        self.hint, self.is_collected = hint, is_collected

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        read = [read_text(text, self.hint, f"{option_string}") for text in _as_list(values)]
        if self.is_collected and hasattr(namespace, self.dest):
            read.insert(0, getattr(namespace, self.dest))
        value = read[0]
        for other in read[1:]:
            value = [*_as_list(value), *_as_list(other)]
        setattr(namespace, self.dest, value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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
        elements = [element for kind in lists for element in get_args(kind) if element is not Ellipsis]
        flat = [kind for element in elements for kind in types_of(element)]
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


def _metavar(name: str, hint: Any) -> str:
    """Return the choices of an option, or its name where it has none or many."""
    choices = choices_of(hint)
    if 0 < len(choices) <= _MOST_CHOICES:
        return "|".join(choices)
    return name.upper()


def parameters_of(target: Any) -> Mapping[str, Any]:
    """Return the parameters of a class or function by name."""
    if isinstance(target, type):
        return constructor_parameters(target)
    from inspect import signature

    return signature(target).parameters


@cache
def helps_of(target: Any) -> dict[str, str]:
    """Return the descriptions of arguments in docstrings, including base classes, without markup."""
    texts = [target.__doc__]
    if isinstance(target, type):
        texts = [text for kind in target.__mro__ for text in (kind.__doc__, kind.__init__.__doc__)]  # type: ignore[misc]
    helps: dict[str, str] = {}
    for documented in texts:
        for parameter in parse_docstring(documented or "").params:
            text = parameter.description or ""
            for pattern, replacement in _MARKUP:
                text = re.sub(pattern, replacement, text)
            for name in parameter.arg_name.split(","):
                helps.setdefault(name.strip(), text.strip())
    return helps


def _escaped(text: str) -> str:
    return text if text == SUPPRESS else text.replace("%", "%%")
