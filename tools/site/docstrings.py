"""An extension of griffe, which reads docstrings for mkdocstrings: functions of options show the options as their
parameters, `>>>` lines become blocks of code, and names of parameters are shown as code where the docstring says what
they are."""

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

# Lines from the first `>>>` to the next empty line.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
DERIVED = re.compile(r"(accepting|constructor)\(")
FLAG = re.compile(r"\s*# doctest: \+\w+")


class Marked(griffe.Extension):
    def on_function_instance(self, *, func: griffe.Function, **_) -> None:
        """Gives a function that `accepting` or `constructor` decorates the parameters that it has when it runs."""
        if any(DERIVED.match(str(decorator.value)) for decorator in func.decorators):
            show_as_it_runs(func)

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is None:
            return
        text = with_fences(obj.docstring.value)
        if obj.is_function:
            text = with_names(text, [parameter.name for parameter in obj.parameters])
        obj.docstring.value = text


def show_as_it_runs(func: griffe.Function) -> None:
    running: Any = import_module(func.module.path)
    for name in func.path.removeprefix(f"{func.module.path}.").split("."):
        running = getattr(running, name)
    parameters = inspect.signature(running).parameters.values()
    func.parameters = griffe.Parameters(*map(shown, parameters))
    func.docstring = griffe.Docstring(inspect.getdoc(running) or "", parent=func, lineno=func.lineno)


def shown(parameter: inspect.Parameter) -> griffe.Parameter:
    annotation = None
    if parameter.annotation is not parameter.empty:
        annotation = inspect.formatannotation(parameter.annotation).replace("collections.abc.", "")
    return griffe.Parameter(
        parameter.name,
        annotation=annotation,
        kind=griffe.ParameterKind[parameter.kind.name.lower()],
        default=None if parameter.default is parameter.empty else repr(parameter.default),
    )


def with_fences(text: str) -> str:
    return EXAMPLE.sub(lambda match: f"```pycon\n{FLAG.sub('', match[0])}\n```", text)


def with_names(text: str, names: list[str]) -> str:
    """`name: what it is` and `name or other: what they are`"""
    return re.sub(rf"\b({'|'.join(names)})\b(?=(?: or \w+)?:\s)", r"`\1`", text) if names else text
