"""The methods as commands: what the command line, the scripts and the Python functions launch alike."""

from lit_viz.launch.commands.attack import Attack
from lit_viz.launch.commands.base import Command
from lit_viz.launch.commands.saliency import Saliency
from lit_viz.launch.commands.visualize import Visualize

COMMANDS: dict[str, Command] = {command.name: command for command in (Visualize(), Saliency(), Attack())}

__all__ = ["COMMANDS", "Command"]
