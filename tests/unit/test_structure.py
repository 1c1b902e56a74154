"""State has one owner: a field is assigned only by methods in the module that defines its class.

Checked on the source of the Kubernetes backend, whose threads share the state of attempts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubefunc.backends.kubernetes

PACKAGE = Path(kubefunc.backends.kubernetes.__file__).parent
STRUCTS = PACKAGE / "attempts"
CONTAINERS = ("dict", "list", "set", "defaultdict", "deque")
CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove"),
    *("reverse", "setdefault", "sort", "update", "difference_update", "intersection_update"),
}


def declared(tree: ast.Module) -> set[str]:
    """The fields that the classes of a module declare: annotated in the body, or assigned to self in __init__."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {name for each in classes for name in (*_annotated(each), *_initialized(each))}


def _annotated(definition: ast.ClassDef) -> Iterator[str]:
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _initialized(definition: ast.ClassDef) -> Iterator[str]:
    for method in definition.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for node in ast.walk(method):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                    yield node.attr


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def containers(tree: ast.Module) -> set[str]:
    """The fields of a module's classes that hold a dict, a list or a set."""
    return {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and ast.unparse(node.annotation).partition("[")[0] in CONTAINERS
    }


def foreign_writes(source: str, fields: set[str], shared: set[str]) -> list[str]:
    """Where a module changes a field that a class of another module declares, and none of its own.

    Args:
        source: the module's text.
        fields: names of the fields that some class declares: attributes of other libraries' objects are none.
        shared: names of fields that hold containers: these are changed by methods of theirs, too.
    """
    tree = ast.parse(source)
    foreign = fields - declared(tree)
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(tree) if _changes(node, shared) & foreign]


def _changes(node: ast.AST, shared: set[str]) -> set[str]:
    """The name of the field that this node changes, if it is one."""
    match node:
        case ast.Attribute(attr=field, ctx=ast.Store() | ast.Del()):
            return {field}
        case ast.Subscript(value=ast.Attribute(attr=field), ctx=ast.Store() | ast.Del()):
            return {field}
        case ast.Call(func=ast.Attribute(attr=method, value=ast.Attribute(attr=field))) if method in CHANGES:
            return {field} & shared
        case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[_, ast.Constant(value=str(field)), *_]):
            return {field}
        case _:
            return set()


MODULES = sorted(PACKAGE.rglob("*.py"))
FIELDS = {name for path in MODULES for name in declared(ast.parse(path.read_text()))}
SHARED = {name for path in STRUCTS.glob("*.py") for name in containers(ast.parse(path.read_text()))}


@pytest.mark.parametrize("path", MODULES, ids=[path.relative_to(PACKAGE).as_posix() for path in MODULES])
def test_a_field_is_assigned_only_where_its_class_is_defined(path: Path) -> None:
    """Other modules call a method that says what has happened."""
    assert foreign_writes(path.read_text(), FIELDS, SHARED) == []


OWNER = """
from dataclasses import dataclass, field

@dataclass
class Waiting:
    since: float
    pods: dict[str, str] = field(default_factory=dict)

    def start_over(self):
        self.since = 0.0
        self.pods["a"] = "b"
        self.pods.clear()

def merge(one, other):
    one.since = other.since
"""


def test_the_module_of_a_struct_may_change_it() -> None:
    """By methods, mostly."""
    assert foreign_writes(OWNER, {"since", "pods"}, {"pods"}) == []


@pytest.mark.parametrize(
    "statement",
    [
        "attempt.waiting.since = 1.0",
        "attempt.waiting.since += 1.0",
        "self.since = 1.0",
        "self.attempt.waiting.since, other = 1.0, 2.0",
        "for attempt.since in range(3): pass",
        "del attempt.since",
        "attempt.pods['a'] = 'b'",
        "attempt.pods.pop('a')",
        "del attempt.pods['a']",
        "setattr(attempt, 'since', 1.0)",
    ],
)
def test_another_module_may_not(statement: str) -> None:
    """The check finds each way of changing a field that another module defines."""
    source = f"class Tracker:\n    def news(self, attempt, other):\n        {statement}\n"
    owner = ast.parse(OWNER)
    assert len(foreign_writes(source, declared(owner), containers(owner))) == 1


def test_attempts_hold_their_state_in_structs() -> None:
    """The check looks at something: these fields are declared where they are changed."""
    owners = {path.name: declared(ast.parse(path.read_text())) for path in STRUCTS.glob("*.py")}
    assert {"uid", "created", "deleted"} <= owners["job_objects.py"]
    assert {"known", "ended", "vanished"} <= owners["pods.py"]
    assert {"stream", "receipt", "fetching"} <= owners["fetch.py"]
    assert {"finding", "quiet", "warned"} <= owners["waiting.py"]
    assert {"known", "asked", "begun"} <= SHARED
