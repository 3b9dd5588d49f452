"""Every lowering against the allow-list of operators and the table of the engine's rules."""

import ast
import collections

import pytest
import torch

from edge_s2a.artifact.operators import OPERATORS
from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import VIEW, Graph, Node, TensorType
from edge_s2a.host.graph.lowerings import LOWERINGS
from edge_s2a.host.graph.lowerings.arithmetic import ELEMENTWISE
from edge_s2a.host.pack import adapt, build_graphs
from edge_s2a.host.targets.onnxruntime.emit import to_onnx
from edge_s2a.host.targets.onnxruntime.rules import OPSETS, RULES, rule_of
from tests.helpers.artifacts import options_of
from tests.helpers.paths import PROJECT

# Whoever writes a node names its operator in the first argument of one of these, but for `emit_as`, in the second.
WRITERS = {"emit": 0, "emit_several": 0, "emit_as": 1, "Node": 0, "elementwise": 0, "reduction": 0}
# First arguments that are no names: parameters of functions whose callers are looked at, and operators of nodes that
# are copied.
PASSED_ON = {"operator", "node.operator"}


def written_operators() -> set[tuple[str, str]]:
    """(operator, domain) of every node that the host's code can write, from its source."""
    found = {(operator, "") for operator in ELEMENTWISE.values()}
    for path in sorted((PROJECT / "edge_s2a" / "host").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            name = called(call)
            if name in WRITERS and len(call.args) > WRITERS[name]:
                domain = "com.microsoft" if "'com.microsoft'" in ast.unparse(call) else ""
                found |= {(operator, domain) for operator in operators_in(call.args[WRITERS[name]], path)}
    return found


def called(node: ast.AST) -> str:
    """The name of the function or method that a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def operators_in(argument: ast.expr, path) -> set[str]:
    if isinstance(argument, ast.IfExp):
        return operators_in(argument.body, path) | operators_in(argument.orelse, path)
    if isinstance(argument, ast.Constant):
        return {argument.value}
    text = ast.unparse(argument)
    if text == "VIEW":
        return {VIEW}
    assert text in PASSED_ON, f"{path.name}: {text} hides which operator is written"
    return set()


def entries(table) -> set[tuple[str, str]]:
    return {(operator, domain) for domain, operators in table.items() for operator in operators}


def test_the_allow_list_holds_what_the_host_can_write_and_nothing_else():
    written = written_operators()
    assert written - entries(OPERATORS) == set(), "not allowed: extend artifact/operators.py"
    assert entries(OPERATORS) - written == set(), "allowed, and no lowering writes it"


def test_the_engines_rules_cover_exactly_what_is_allowed():
    assert entries(RULES) == entries(OPERATORS)
    assert OPSETS.keys() == OPERATORS.keys()


def test_every_lowering_lies_where_its_operators_are_read_from():
    modules = {function.__module__ for function in LOWERINGS.values()}
    assert len(LOWERINGS) > 90
    assert all(module.startswith("edge_s2a.host.graph.lowerings.") for module in modules)


def test_the_view_of_the_graph_is_the_engines_only_view():
    """Passes take Reshape for free, and nothing else."""
    assert {operator for operator, rule in RULES[""].items() if rule.is_view} == {VIEW}


@pytest.mark.parametrize("domain", ["", "ai.onnx.contrib"])
def test_a_lowering_to_an_operator_that_is_not_allowed_ends_with_what_to_do(monkeypatch, domain):
    def lower_to_selu(graph: GraphBuilder, node, x: str, *_, **__) -> str:
        return graph.emit("Selu", [x], graph.types[x], domain)

    for target in (torch.ops.aten.gelu.default, torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        monkeypatch.setitem(LOWERINGS, target, lower_to_selu)
    options = options_of()
    adapted = adapt(options)
    with pytest.raises(AssertionError, match=rf"aten\.\w+\.default is lowered to .*{domain}.*Selu") as raised:
        build_graphs(options, adapted)
    assert "edge_s2a/artifact/operators.py" in str(raised.value)
    assert "host/targets/onnxruntime/rules.py" in str(raised.value)


def graph_with(operator: str) -> Graph:
    types = dict.fromkeys("xy", TensorType(torch.zeros(()).numpy().dtype, (2,)))
    return Graph("test", ["x"], ["y"], [Node(operator, ["x"], ["y"])], {}, types)


def test_a_pass_that_writes_an_operator_that_is_not_allowed_is_found_too():
    assert to_onnx(graph_with("Relu"))
    with pytest.raises(AssertionError, match=r":Selu.*artifact/operators\.py"):
        to_onnx(graph_with("Selu"))
    with pytest.raises(AssertionError, match=r":Selu has no rule.*rules\.py"):
        rule_of(graph_with("Selu").nodes[0])


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
@pytest.mark.parametrize("saved_bits", ["2", "4"])
def test_what_the_engine_runs_once_per_reader_has_one_reader(weight_format, saved_bits):
    kinds = ("bias", "prompt", "side", "lowrank")
    options = options_of(adapter="+".join(kinds), weight_format=weight_format, saved_bits=saved_bits)
    for graph in build_graphs(options, adapt(options)).values():
        readers = collections.Counter(name for node in graph.nodes for name in set(node.inputs))
        outputs = [node.outputs[0] for node in graph.nodes if rule_of(node).runs_once_per_reader]
        assert outputs
        assert all(readers[name] == 1 for name in outputs)
