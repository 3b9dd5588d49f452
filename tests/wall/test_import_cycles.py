"""Modules do not import each other in circles, nor do the parts of a package. Imports for annotations alone
(TYPE_CHECKING) do not run, and do not count."""

import graphlib

import grimp
import pytest

GRAPH = grimp.build_graph("edge_s2a", exclude_type_checking_imports=True)
PACKAGES = sorted(module for module in GRAPH.modules if GRAPH.find_children(module))


def imports_between_children(package: str) -> dict[str, set[str]]:
    """child -> the children of `package` that it, or anything in it, imports."""
    child_of = {
        module: child for child in GRAPH.find_children(package) for module in {child, *GRAPH.find_descendants(child)}
    }
    found: dict[str, set[str]] = {child: set() for child in child_of.values()}
    for module, child in child_of.items():
        imported = GRAPH.find_modules_directly_imported_by(module)
        found[child] |= {child_of[other] for other in imported if other in child_of} - {child}
    return found


def cycle_in(imports: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    assert cycle_in({module: GRAPH.find_modules_directly_imported_by(module) for module in GRAPH.modules}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_parts_of_a_package_import_each_other_in_a_circle(package):
    assert cycle_in(imports_between_children(package)) == []


def test_a_circle_is_found():
    assert cycle_in({"pack": {"graph"}, "graph": {"targets"}, "targets": {"graph"}}) == ["graph", "targets", "graph"]
