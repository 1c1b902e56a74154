"""The shape of the code, read from its source: what must hold wherever it is extended."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubefunc
from kubefunc.backends.base import Backend, Sink, Work

PACKAGE = Path(kubefunc.__file__).parent
# What a layer above may not ask: which sink, which attempt, which backend it has.
OPAQUE = ("Sink", "Outcomes", "View", "Backend", "Work")


def sources(above_backends: bool = False) -> Iterator[tuple[str, ast.Module]]:
    """Each module of the package, by its path in it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not above_backends or not name.startswith(("backends/", "runner/")):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def class_names(node: ast.expr) -> set[str]:
    """The names in the second argument of isinstance()."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def asked_kinds(tree: ast.Module) -> list[str]:
    """The classes that isinstance() is asked for."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 2]
    return [
        kind
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "isinstance"
        for kind in class_names(call.args[1])
    ]


def compared_names(tree: ast.Module) -> list[str]:
    """The names of backends that something is compared with."""
    values = [
        constant.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for constant in (node.left, *node.comparators)
        if isinstance(constant, ast.Constant)
    ]
    return [value for value in values if value in ("kubernetes", "local")]


def test_nobody_above_the_backends_asks_which_kind_of_sink_or_backend_it_has() -> None:
    """What differs between backends is in their traits and methods."""
    found = {name: kinds for name, tree in sources(True) if (kinds := [k for k in asked_kinds(tree) if k in OPAQUE])}
    assert found == {}


def test_nobody_but_the_session_compares_a_backends_name() -> None:
    """The session and its choice.py know them; everybody else asks for traits."""
    found = [name for name, tree in sources(True) if compared_names(tree)]
    assert found == ["choice.py", "session.py"]


def test_nobody_above_the_backends_knows_a_concrete_one() -> None:
    """Only choice.py imports them, when the session makes one; the command line and the archive read what they need of
    a kubeconfig and of a path."""
    found = {
        name: node.module
        for name, tree in sources(True)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kubefunc.backends.")
        if (node.module or "").split(".")[2] in ("local", "kubernetes")
    }
    assert set(found) <= {"choice.py", "memmaps.py"}


@pytest.mark.parametrize("protocol", [Backend, Work])
def test_the_backends_protocols_are_small(protocol: type) -> None:
    """A backend that somebody adds has at most ten members to write, and so has what it gives for a submission."""
    members = [name for name, _ in inspect.getmembers(protocol) if not name.startswith("_")]
    assert 0 < len(members) <= 10


def test_the_map_of_the_modules_is_complete() -> None:
    """CONTRIBUTING.md names every module, and none that is not there."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+\.py)`", text)}
    there = {path.name for path in PACKAGE.rglob("*.py")}
    assert there - named - {"__main__.py"} == set()
    assert named - there - {"noxfile.py", "remote.py"} == set()  # there is no remote.py, and the map says why


def test_the_checks_above_find_what_they_look_for() -> None:
    """On a source that breaks them."""
    tree = ast.parse("if backend.name == 'local' and isinstance(sink, (Sink, int)): pass")
    assert compared_names(tree) == ["local"]
    assert "Sink" in asked_kinds(tree)


def imports() -> dict[str, set[str]]:
    """Which modules of the package each module imports: at its top, in functions and for the type checkers."""
    modules = {f"kubefunc.{name[:-3]}".replace("/", ".").removesuffix(".__init__"): tree for name, tree in sources()}
    return {name: set(_imported(tree, modules)) - {name, "kubefunc"} for name, tree in modules.items()}


def _imported(tree: ast.Module, modules: dict[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules else node.module for name in full)


def cycles(graph: dict[str, set[str]]) -> set[str]:
    """The modules from which one comes back to them."""
    left = {name: set(others) for name, others in graph.items()}
    while True:
        ends = {name for name, others in left.items() if not others & left.keys()}
        if not ends:
            break
        left = {name: others for name, others in left.items() if name not in ends}
    while True:  # those that only lead into a cycle are none
        reached = set().union(*left.values()) if left else set()
        if left.keys() <= reached:
            return set(left)
        left = {name: others for name, others in left.items() if name in reached}


def test_no_modules_import_each_other() -> None:
    """Not in a circle either, not in functions, and not for the type checkers alone.

    The package's own ``__init__`` only names what there is, and loads it when it is used.
    """
    assert cycles(imports()) == set()


def test_there_is_one_sink_and_one_filter_before_it() -> None:
    """What takes outcomes is the view of an attempt; of untrusted functions, what they say is cleaned before.

    A warm worker is told of its own Job, which has no outcome.
    """
    needed = {name for name in vars(Sink) if not name.startswith("_")}
    sinks = {
        (name, node.name)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        if needed <= {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
    }
    of_calls = {("outcomes/attempts.py", "View"), ("untrusted.py", "UntrustedSink")}
    of_workers = {("backends/kubernetes/warm/worker.py", "Worker")}
    assert sinks == {("backends/base.py", "Sink")} | of_calls | of_workers


def test_one_module_decides_whether_the_client_runs_items_again() -> None:
    """No other lets memory grow, and one carries out what it decides."""
    graph = imports()
    growing = {name for name, others in graph.items() if "kubefunc.outcomes.growth" in others}
    assert growing == {"kubefunc.outcomes.retry"}
    askers = {name for name, tree in sources() if "decide" in imported_names(tree, "kubefunc.outcomes.retry")}
    assert askers == {"outcomes/attempts.py"}


def test_the_paths_of_requests_stand_in_one_module() -> None:
    """Where the API server keeps each kind of object."""
    found = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and str(node.value).startswith(("/api/", "/apis/"))
    }
    assert found == {"backends/kubernetes/objects/paths.py"}


def imported_names(tree: ast.Module, module: str) -> set[str]:
    """What a module imports from another."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return {alias.name for node in froms for alias in node.names}


def test_nobody_reads_what_is_inside_a_map_by_its_handle() -> None:
    """A MapCall is for users: others use its MapItems, which it hides."""
    found = {
        name
        for name, tree in sources(True)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "_items" and ast.unparse(node.value) != "self"
    }
    assert found == set()


def test_a_circle_would_be_found() -> None:
    """Of any length; not those that lead into it or away from it."""
    graph = {"top": {"a"}, "a": {"b"}, "b": {"c", "low"}, "c": {"a"}, "low": set()}
    assert cycles(graph) == {"a", "b", "c"}
    assert cycles({"top": {"low"}, "low": set()}) == set()
