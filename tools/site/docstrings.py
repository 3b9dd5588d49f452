"""An extension of griffe, which reads docstrings for mkdocstrings.

Lines that begin with `>>>` become blocks of code; names of parameters are shown as code where the docstring describes
them. A function of an options object is documented as what it is to its caller: a function of that object's fields.
"""

import inspect
import re
from typing import Any

import griffe

from edge_s2a import options

# Lines from the first `>>>` to the next empty line.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"\s*# doctest: \+\w+")
KINDS = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
}


class Marked(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is None:
            return
        text = with_fences(obj.docstring.value)
        if obj.is_function:
            taken = options_of(obj)
            if taken is not None:
                text += f"\n\nOptions:\n\n{options.describe(taken)}"
                obj.parameters = with_fields(obj.parameters, taken)
            else:
                text = with_names(text, [parameter.name for parameter in obj.parameters])
        obj.docstring.value = text


def with_fences(text: str) -> str:
    return EXAMPLE.sub(lambda match: f"```pycon\n{FLAG.sub('', match[0])}\n```", text)


def with_names(text: str, names: list[str]) -> str:
    """`name: what it is` and `name or other: what they are`"""
    return re.sub(rf"\b({'|'.join(names)})\b(?=(?: or \w+)?:\s)", r"`\1`", text) if names else text


def options_of(function: griffe.Function) -> type | None:
    """The class of the parameter `options`, if edge_s2a/options.py defines it."""
    names = [str(parameter.annotation) for parameter in function.parameters if parameter.name == "options"]
    return getattr(options, names[0], None) if names else None


def with_fields(parameters: griffe.Parameters, taken: Any) -> griffe.Parameters:
    """`options` replaced by the fields of the class `taken`."""
    fields = [
        griffe.Parameter(
            field.name,
            annotation=str(inspect.formatannotation(field.annotation)),
            kind=KINDS[field.kind],
            default=None if field.default is inspect.Parameter.empty else repr(field.default),
        )
        for field in inspect.signature(taken).parameters.values()
    ]
    return griffe.Parameters(*(parameter for parameter in parameters if parameter.name != "options"), *fields)
