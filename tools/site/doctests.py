"""An extension of griffe, which reads docstrings for mkdocstrings: `>>>` lines become blocks of code."""

import re

import griffe

# Lines from the first `>>>` to the next empty line.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"\s*# doctest: \+\w+")


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_fences(obj.docstring.value)


def with_fences(text: str) -> str:
    return EXAMPLE.sub(lambda match: f"```pycon\n{FLAG.sub('', match[0])}\n```", text)
