"""Shows everything that run.json says, whichever version of edge-s2a wrote it."""

from typing import Any

from edge_s2a.report.elements import card, paragraph, titled
from edge_s2a.report.elements import definitions as definition_list
from edge_s2a.report.words import label, shown


def section(facts: dict[str, Any]) -> str:
    """facts: the JSON object of run.json, {} where there is none."""
    if not facts:
        return titled("Configuration", paragraph("This run left no run.json: an older version trained it."))
    plan = part_of(facts, "plan")
    parts = {f"{name}_bytes": size for name, size in part_of(plan, "parts").items()}
    data = {
        f"{split} {name}": value
        for split in ("train", "val")
        for name, value in part_of(part_of(facts, "data"), split).items()
    }
    runs = {name: facts.get(name) for name in ("started", "steps", "resumed_at_step", "providers")}
    blocks = {
        "Settings": part_of(facts, "settings"),
        "Model and adapter": part_of(facts, "artifact"),
        "Memory plan": {**{name: value for name, value in plan.items() if name != "parts"}, **parts},
        "Data": {**data, "classes": facts.get("classes")},
        "Machine": {**runs, **part_of(facts, "machine")},
        "Versions": part_of(facts, "versions"),
    }
    return configuration(blocks)


def configuration(blocks: dict[str, dict[str, Any]]) -> str:
    """blocks: title -> name -> JSON value."""
    content = "".join(card(title, definitions(values)) for title, values in blocks.items() if values)
    return titled("Configuration", f'<div class="columns">{content}</div>')


def part_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns values[name] if it is a JSON object, {} otherwise."""
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def definitions(values: dict[str, Any]) -> str:
    return definition_list((label(name), shown(name, value)) for name, value in values.items())
