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


# --- sizes: what a reader can hold in the head

MODULE_LINES, CLASS_METHODS, FUNCTION_LINES, COLLABORATORS = 450, 25, 40, 6
# What is larger, and why. Each stands here once, by module and name.
LARGER = {
    "function.py": "a quarter of it are overloads of map and starmap: types for checkers, with no code",
    "runner/pod/courier.py": "each program that exec starts loads it: a second module would cost every reader time",
    "outcomes/store.py Outcomes": "the one store of a submission: what each layer asks of it stands here once",
    "backends/kubernetes/control/work.py ClusterWork": "four collaborators; call, namespace and options are values",
    "handles/call.py Call": "a Future, whose methods it overrides, and what a call adds to one",
    "backends/kubernetes/api/errors.py ApiError": "an exception: what was refused, as values",
    "backends/kubernetes/api/errors.py ConnectionFailed": "an exception: what was asked and of whom, as values",
    "backends/kubernetes/api/watcher.py Watcher": "four collaborators; path, query, name and a time limit are values",
    "backends/kubernetes/attempts/attempt.py Attempt": "most are one line: what a map and a chunk answer otherwise",
    "backends/kubernetes/warm/worker.py Worker": "a state machine: its transitions are its methods",
    "runner/warm/worker.py Worker": "a state machine: its transitions are its methods",
}
ROOT = Path(kubefunc.__file__).parent


def larger_than_allowed(name: str, source: str) -> Iterator[str]:
    """The module, its classes and functions that are too large, by their names."""
    if source.count("\n") > MODULE_LINES:
        yield name
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            if len({each.name for each in methods}) > CLASS_METHODS or any(map(_takes_too_much, methods)):
                yield f"{name} {node.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > FUNCTION_LINES:
            yield f"{name} {node.name}"


def _takes_too_much(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    taken = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
    return method.name == "__init__" and len(taken) - 1 > COLLABORATORS


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Those of the body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None and function.body[1:] else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


def test_what_is_large_says_why() -> None:
    """A module has 450 lines at most, a class 25 methods, a function 40 lines, a constructor six collaborators."""
    found = {
        each
        for path in sorted(ROOT.rglob("*.py"))
        for each in larger_than_allowed(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    }
    assert found - LARGER.keys() == set(), "split it, or say in LARGER why it is one thing"


def test_what_may_be_large_is_there() -> None:
    """The list of exceptions names no module and no class that is gone."""
    for name in LARGER:
        module, _, of_class = name.partition(" ")
        assert f"class {of_class}" in (ROOT / module).read_text(encoding="utf-8"), name


def test_the_sizes_are_counted_as_they_are_meant() -> None:
    """A docstring is no line of a function's body, an overload no method, and self no collaborator."""
    long = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * 41
    assert list(larger_than_allowed("m.py", long)) == ["m.py f"]
    assert list(larger_than_allowed("m.py", long.replace("    x = 1\n", "", 1))) == []
    many = "class C:\n" + "".join(f"    def m{number}(self): ...\n" for number in range(26))
    assert list(larger_than_allowed("m.py", many)) == ["m.py C"]
    assert list(larger_than_allowed("m.py", many.replace("m25", "m24"))) == []
    takes = "class C:\n    def __init__(self, a, b, c, d, e, f, *, g): ...\n"
    assert list(larger_than_allowed("m.py", takes)) == ["m.py C"]
    assert list(larger_than_allowed("m.py", takes.replace(", g", "").replace("*", "*g"))) == []
    assert list(larger_than_allowed("m.py", "\n" * 451)) == ["m.py"]
