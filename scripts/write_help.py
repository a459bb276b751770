"""Write the help of the commands, which `lit-viz COMMAND --help` prints without importing torch, and tables of docs/.

python scripts/write_help.py
"""

from __future__ import annotations

import re
from argparse import Action
from pathlib import Path

import lit_viz
from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.cli import COMMAND_NAMES
from lit_viz.commands import command_parser, help_text
from lit_viz.evidence.saliency.captum_reference import counterpart_of
from lit_viz.launch.parser import option_text
from lit_viz.runs.evidence import NOT_IN_CAPTUM

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


def help_files() -> dict[Path, str]:
    """Return the help of each command by its file."""
    return {FOLDER / f"{name}.txt": help_text(name) for name in COMMAND_NAMES}


def options_page() -> str:
    """Return docs/options.md: its text up to the mark, and all options of all commands."""
    by_hand, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    lines = [by_hand + MARK, "## All options\n"]
    shared: dict[str, str] = {}
    for name in sorted(COMMAND_NAMES, key=lambda name: name == "demo"):
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
    lines = [f"### lit-viz {name}\n", f"{parser.description}\n", f"```\n{parser.usage}\n```\n"]
    for title, actions in parser.described():
        table = "\n".join(["| option | meaning |", "| --- | --- |", *map(row, actions)])
        if table in shared:
            lines.append(f"**{title}**: as in [lit-viz {shared[table]}](#lit-viz-{shared[table]}).\n")
            continue
        shared[table] = name
        lines += [f"**{title}**\n", f"{table}\n"]
    return lines


def row(action: Action) -> str:
    """Return the row of an option."""
    words = option_text(action).replace("|", "\\|")
    text = re.sub(r"([|<>*])", r"\\\1", (action.help or "").replace("%%", "%"))
    return f"| `{words}` | {text} |"


def part_options(command: str, option: str, name: str) -> list[str]:
    """Return the options of a part, such as of an attack, with the names that are its own."""
    options: list[str] = []
    for _, actions in command_parser(command, [f"--{option}", name]).described():
        for action in actions:
            if action.dest.startswith(f"{option}."):
                options.append(f"`{action.option_strings[0]}`")
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
    """Write the files."""
    for path, text in help_files().items():
        path.write_text(text, encoding="utf-8")
    PAGE.write_text(options_page(), encoding="utf-8")
    SALIENCY_PAGE.write_text(saliency_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
