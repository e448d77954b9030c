"""Tests of the type stubs: what they declare is what the installed libraries have."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

STUBS = Path(__file__).parents[1] / "src" / "stubs"


def parameters(function: ast.FunctionDef) -> set[str]:
    """Returns the names of the parameters of a declared function, without `self`."""
    return {one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)} - {"self"}


def assert_declared(real: object, body: list[ast.stmt], where: str) -> None:
    """Fails where a declared name is missing in `real`, or a declared parameter in its function."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and any(name.asname for name in node.names):
            assert all(hasattr(real, name.asname or name.name) for name in node.names), f"{where}: {ast.unparse(node)}"
        if isinstance(node, ast.ClassDef):
            assert_declared(getattr(real, node.name), node.body, f"{where}.{node.name}")
        if isinstance(node, ast.AnnAssign):
            assert hasattr(real, ast.unparse(node.target)), f"{where}: {ast.unparse(node)}"
        if isinstance(node, ast.FunctionDef) and node.name != "__getattr__":
            found = getattr(real, node.name)
            if not isinstance(found, property):
                missing = parameters(node) - set(inspect.signature(found).parameters)
                assert not missing, f"{where}.{node.name} has no parameters {sorted(missing)}"


@pytest.mark.parametrize("stub", sorted(STUBS.rglob("*.pyi")), ids=lambda path: path.parent.name)
def test_a_stub_declares_what_its_library_has(stub):
    name = ".".join(stub.relative_to(STUBS).parent.parts)
    assert_declared(importlib.import_module(name), ast.parse(stub.read_text()).body, name)


def test_a_stub_with_a_parameter_that_its_library_lacks_is_found():
    body = ast.parse("def loads(s: str, encoding: str): ...").body
    with pytest.raises(AssertionError, match=r"json.loads has no parameters \['encoding'\]"):
        assert_declared(importlib.import_module("json"), body, "json")
