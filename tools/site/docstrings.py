"""An extension of griffe, which reads docstrings for mkdocstrings: `>>>` lines become blocks of code, and names of
parameters are shown as code where the docstring says what they are."""

import re

import griffe

# Lines from the first `>>>` to the next empty line.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"\s*# doctest: \+\w+")


class Marked(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is None:
            return
        text = with_fences(obj.docstring.value)
        if obj.is_function:
            text = with_names(text, [parameter.name for parameter in obj.parameters])
        obj.docstring.value = text


def with_fences(text: str) -> str:
    return EXAMPLE.sub(lambda match: f"```pycon\n{FLAG.sub('', match[0])}\n```", text)


def with_names(text: str, names: list[str]) -> str:
    """`name: what it is` and `name or other: what they are`"""
    return re.sub(rf"\b({'|'.join(names)})\b(?=(?: or \w+)?:\s)", r"`\1`", text) if names else text
