"""A hook of mkdocs: writes the reference of the command line from its own parser.

The page that holds `<!-- commands -->` gets a section for each command there.
"""

import argparse

from edge_s2a.cli.main import build_parser
from edge_s2a.cli.parser import commands_of

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_) -> str:
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Markdown: one section per command, with a table of its arguments."""
    commands = commands_of(build_parser())
    return "\n\n".join(section(name, command) for name, command in commands.items())


def section(name: str, command: argparse.ArgumentParser) -> str:
    actions = sorted((action for action in command._actions if action.dest != "help"), key=rank)
    positional = [form_of(action) for action in actions if not action.option_strings]
    usage = " ".join([command.prog, *positional, *map(form_of, filter(is_required_option, actions)), "[OPTIONS]"])
    partners = exclusive_partners(command)
    rows = [f"| {cell(form_of(a), code=True)} | {default_of(a)} | {help_of(a, partners)} |" for a in actions]
    return "\n".join(
        [f"## {name}", "", f"{command.description}", "", "```text", usage, "```", "",
         "| argument | default | meaning |", "|---|---|---|", *rows]
    )  # fmt: skip


def rank(action: argparse.Action) -> int:
    """First what must be given, last what all commands have."""
    return 0 if action.required else 2 if action.dest in ("json", "quiet") else 1


def is_required_option(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


def form_of(action: argparse.Action) -> str:
    """How it is written, such as `--batch-size BATCH_SIZE`."""
    return " ".join([", ".join(action.option_strings), values_of(action)]).strip()


def values_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    name = action.metavar or action.dest.upper()
    if action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}.get(action.nargs, name)


def default_of(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.nargs == 0 or action.default is None or action.default == []:
        return ""
    return cell(str(action.default), code=True)


def help_of(action: argparse.Action, partners: dict[str, list[str]]) -> str:
    others = partners.get(action.dest, [])
    text = (action.help or "") % vars(action)
    return cell(text) + (f" (not together with {', '.join(f'`{other}`' for other in others)})" if others else "")


def exclusive_partners(command: argparse.ArgumentParser) -> dict[str, list[str]]:
    """name of an argument -> the options that exclude it"""
    return {
        action.dest: [other.option_strings[0] for other in group._group_actions if other is not action]
        for group in command._mutually_exclusive_groups
        for action in group._group_actions
    }


def cell(text: str, code: bool = False) -> str:
    """Of a table. Within code a bar needs its escape, too."""
    text = text.replace("|", "\\|")
    return f"`{text}`" if code else text.replace("<", "&lt;")
