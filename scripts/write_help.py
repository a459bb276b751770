"""Write the help of the commands, which `lit-viz COMMAND --help` prints without importing torch, and tables of docs/.

python scripts/write_help.py
python scripts/write_help.py --check        # name the files that it would change; exit status 1 if there are any
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

import lit_viz
from lit_viz.attacks import ATTACKS, Attack
from lit_viz.attributions import ATTRIBUTIONS, Attribution
from lit_viz.cli import commands
from lit_viz.commands import command_parser, help_text
from lit_viz.evidence.saliency.captum_reference import counterpart_of
from lit_viz.launch.form import config_names
from lit_viz.launch.parser import CommandOption, option_text
from lit_viz.launch.specs import METHODS
from lit_viz.runs.evidence import NOT_IN_CAPTUM
from lit_viz.utils.checking import choices_of, described, types_of
from lit_viz.utils.parts import named_classes

ROOT = Path(__file__).parents[1]
FOLDER = Path(lit_viz.__file__).parent / "launch" / "help"
PAGE = ROOT / "docs" / "options.md"
SALIENCY_PAGE = ROOT / "docs" / "saliency_details.md"
#: End of the part of the page that is written by hand.
MARK = "<!-- What follows is written by scripts/write_help.py. -->\n"
#: Around the table of Captum's methods.
TABLE, END_OF_TABLE = "<!-- captum -->\n", "<!-- end of captum -->"
#: Parts that a method has by name: command, option, and names.
PARTS = (("attack", "attack", ATTACKS), ("saliency", "method", ATTRIBUTIONS))
#: The same by the base class of the part.
NAMED_PARTS = (("attack", "attack", Attack), ("saliency", "method", Attribution))


def help_files() -> dict[Path, str]:
    """Return the help of each command by its file."""
    files = {FOLDER / f"{name}.txt": help_text(name) for name in commands()}
    return files | {FOLDER / "options.json": options_table()}


def options_table() -> str:
    """Return the options of all commands, which errors need before torch is imported."""
    names = {option: list(named_classes(base)) for _, option, base in NAMED_PARTS}
    tables: dict[str, list[dict[str, Any]]] = {}
    for command in commands():
        entries: dict[str, dict[str, Any]] = {}
        for words in word_variants(command):
            for entry in entries_of(command, words):
                entry["shown"] = entry["shown"] and not words  # others are options of one part
                entries.setdefault(entry["word"], entry)
        tables[command] = list(entries.values())
        if command in METHODS:
            names[f"{command} config"] = config_names(command)
    return as_table(tables, names)


def word_variants(command: str) -> list[list[str]]:
    """Return words that give a parser each of its configurations and parts in turn."""
    variants: list[list[str]] = [[]]
    if command in METHODS:
        variants += [["--config", name] for name in config_names(command)]
    for of_command, option, names in PARTS:
        if of_command == command:
            variants += [[f"--{option}", name] for name in names]
    return variants


def entries_of(command: str, words: list[str]) -> list[dict[str, Any]]:
    """Return the entries of the table for the options of a parser."""
    entries: list[dict[str, Any]] = []
    parts = [option for of_command, option, _ in NAMED_PARTS if of_command == command]
    parser = command_parser(command, words)
    shown = [option for options in parser.sections().values() for option in options]
    for option in parser.entries.values():
        for word in option.words:
            entry = {"word": word, "name": option.name, "values": option.values, "shown": option in shown}
            if takes_choices(option.hint):
                entry |= {"choices": choices_of(option.hint), "described": described(option.hint)}
            if option.name in parts:
                entry["part"] = option.name
            elif option.name == "config":
                entry["part"] = f"{command} config"
            entries.append(entry)
    return entries


def as_table(commands: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, Sequence[str]]) -> str:
    """Return the text of ``help/options.json``; see :func:`lit_viz.launch.early.options_of`.

    Args:
        commands: entries of each command: ``word``, ``name``, ``values``, ``shown``, and ``part`` where it names one.
        names: names of the parts by the ``part`` of entries.
    """
    lines = ["{", '"names": {']
    lines.append(",\n".join(f"{json.dumps(part)}: {json.dumps(list(of_part))}" for part, of_part in names.items()))
    lines.append('},\n"commands": {')
    texts = []
    for name, entries in commands.items():
        rows = ",\n".join(json.dumps(entry) for entry in entries)
        texts.append(f"{json.dumps(name)}: [\n{rows}\n]")
    lines.append(",\n".join(texts))
    lines.append("}\n}\n")
    return "\n".join(lines)


def takes_choices(hint: Any) -> bool:
    """Return whether an option takes one of some words, and nothing else."""
    kinds = [kind for kind in types_of(hint) if kind is not type(None)]
    return bool(kinds) and all(get_origin(kind) is Literal for kind in kinds)


def options_page() -> str:
    """Return docs/options.md: its text up to the mark, and all options of all commands."""
    by_hand, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    lines = [by_hand + MARK, "## All options\n"]
    shared: dict[str, str] = {}
    for name in sorted(commands(), key=lambda name: name == "demo"):
        lines += command_lines(name, shared)
    for command, option, names in PARTS:
        lines.append(f"### Options of each {option}\n")
        lines.append(f"`lit-viz {command} --{option} NAME --help-all` describes them.\n")
        lines += [f"| `--{option}` | options |", "| --- | --- |"]
        for name in names:
            options = ", ".join(part_options(command, option, name)) or "none"
            lines.append(f"| `{name}` | {options} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def command_lines(name: str, shared: dict[str, str]) -> list[str]:
    """Return the tables of a command; a table that another command has too is a link to it.

    Args:
        name: name of the command.
        shared: the command that has a table, by the text of the table; tables of this command are added.
    """
    parser = command_parser(name)
    sections = parser.sections()
    lines = [f"### lit-viz {name}\n", f"{parser.description}\n", f"```\n{parser.usage}\n```\n"]
    for title, options in sections.items():
        rows = [row(option, parser.help_of(option)) for option in options]
        table = "\n".join(["| option | meaning |", "| --- | --- |", *rows])
        if table in shared:
            lines.append(f"**{title}**: as in [lit-viz {shared[table]}](#lit-viz-{shared[table]}).\n")
            continue
        shared[table] = name
        lines += [f"**{title}**\n", f"{table}\n"]
    return lines


def row(option: CommandOption, text: str) -> str:
    """Return the row of an option with a description."""
    words = option_text(option).replace("|", "\\|")
    text = re.sub(r"([|<>*])", r"\\\1", text)
    return f"| `{words}` | {text} |"


def part_options(command: str, option: str, name: str) -> list[str]:
    """Return the options of a part, such as of an attack, with the names that are its own."""
    options: list[str] = []
    for shown in command_parser(command, [f"--{option}", name]).sections().values():
        for entry in shown:
            if entry.name.startswith(f"{option}."):
                options.append(f"`{entry.words[0]}`")
    return options


def saliency_page() -> str:
    """Return docs/saliency_details.md with the table of what each method is compared with."""
    before, start, rest = SALIENCY_PAGE.read_text(encoding="utf-8").partition(TABLE)
    _, end, after = rest.partition(END_OF_TABLE)
    lines = ["| method | Captum | compared |", "|---|---|---|"]
    for name, kind in ATTRIBUTIONS.items():
        counterpart = counterpart_of(kind())
        captum, compared = "-", NOT_IN_CAPTUM
        if counterpart is not None:
            compared = counterpart.compared
        if counterpart is not None and counterpart.name:
            captum = f"`{counterpart.name}`"
        lines.append(f"| `{name}` | {captum} | {compared} |")
    table = "\n".join(lines)
    return f"{before}{start}\n{table}\n\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    files = {**help_files(), PAGE: options_page(), SALIENCY_PAGE: saliency_page()}
    outdated = [path for path in FOLDER.iterdir() if path not in files]  # of commands that are no more
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            outdated.append(path)
    if options.check:
        sys.exit("\n".join(f"write_help: {path.relative_to(ROOT)} is not up to date" for path in outdated) or None)
    for path in outdated:
        if path in files:
            path.write_text(files[path], encoding="utf-8")
        else:
            path.unlink()


if __name__ == "__main__":
    main()
