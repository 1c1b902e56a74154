"""The caller's code in a bare Python: real processes, which see nothing but what travelled.

Each test is a small project with a program. The program packs a call, has it run by ``kubefunc.pyz`` in an
interpreter without site-packages, environment and current directory, and looks at what comes back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kubefunc
from kubefunc.packing.archive import build_archive, find_sources

ROOT = Path(__file__).parent.parent.parent
POD = '''
import os, subprocess, sys, tempfile, json
from kubefunc.packing.archive import build_archive, find_sources
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Raised, outcome, verify
from kubefunc.ids import new_id
from kubefunc.packing.payload import Packer
from kubefunc.runner.protocol.spec import RunnerSpec

PACKER = Packer.for_cluster()
PYZ = build_archive({name: path.read_bytes() for name, path in find_sources().items()})

def run(function, *args):
    """What the function gives or raises in a bare Python."""
    payload = PACKER.pack(function, args)
    call = new_id("f", b"k" * 32)
    with tempfile.TemporaryDirectory() as place:
        for name in ("in", "out", "tmp"):
            os.mkdir(os.path.join(place, name))
        files = {
            "kubefunc.pyz": PYZ,
            "spec.json": RunnerSpec(call=call, function="f").encoded(),
            "key": b"k" * 32,
            "payload": payload.data,
        }
        for name, data in files.items():
            with open(os.path.join(place, "in", name), "wb") as file:
                file.write(data)
        environ = {
            "KUBEFUNC_IN": os.path.join(place, "in"),
            "KUBEFUNC_OUT": os.path.join(place, "out"),
            "KUBEFUNC_TERMINATION_LOG": os.path.join(place, "termination"),
            "TMPDIR": os.path.join(place, "tmp"),
            "PATH": os.environ["PATH"],
        }
        command = [sys.executable, "-I", "-S", "-E", os.path.join(place, "in", "kubefunc.pyz"), "main"]
        subprocess.run(command, env=environ, cwd=os.path.join(place, "tmp"), stdin=subprocess.DEVNULL, timeout=60)
        with open(os.path.join(place, "out", "result"), "rb") as file:
            envelope = verify(file.read(), b"k" * 32, call)
        ended = outcome(envelope, Diagnosis(reason="test", message=""))
    if isinstance(ended, Raised):
        raise ended.error
    return ended.value
'''


def run_program(tmp_path: Path, program: str, files: dict[str, str], *roots: str) -> str:
    """Run the program in a project of these files, with these directories on its sys.path; its output."""
    for name, content in {**files, program: files[program]}.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod/bare_pod.py").write_text(POD)
    places = [str(ROOT), str(tmp_path / "pod"), *(str(tmp_path / "project" / root) for root in roots)]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "project" / program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PACKAGE = {
    "shop/__init__.py": "from .errors import Refused",
    "shop/errors.py": "class Refused(Exception):\n    def __init__(self, what, code): super().__init__(what, code)",
    "shop/data/prices.txt": "7",
    "shop/model.py": """
import threading
from importlib import resources
from pathlib import Path
from .errors import Refused
from . import errors

LOCK = threading.Lock()

class Order:
    def __init__(self, price): self.price = price
    def doubled(self): return Order(2 * self.price)

def price():
    with LOCK:
        here = Path(__file__).parent.joinpath("data/prices.txt").read_text()
        assert resources.files("shop").joinpath("data/prices.txt").read_text() == here
        return Order(int(here))

def refuse(): raise Refused("no", 3)
""",
}
USE = """
from bare_pod import run
from shop import Refused
from shop.model import Order, price, refuse

order = run(price)
assert type(order) is Order and order.price == 7
assert type(run(order.doubled)) is Order
try:
    run(refuse)
except Refused as error:
    assert type(error) is Refused and error.args == ("no", 3)
    print("ok")
"""


@pytest.mark.parametrize("layout", ["src", "flat", "beside"])
def test_a_projects_package_runs_in_a_bare_image(tmp_path: Path, layout: str) -> None:
    """Relative imports, package data and module state work; classes and exceptions come back as themselves."""
    prefix = "src/" if layout == "src" else ""
    files = {prefix + name: content for name, content in PACKAGE.items()}
    roots = {"src": ["src"], "flat": ["."], "beside": []}[layout]
    program = "scripts/use.py" if layout != "beside" else "use.py"
    assert run_program(tmp_path, program, {**files, program: USE}, *roots) == "ok\n"


@pytest.mark.parametrize("registered", ["helpers", "helpers.deep"])
def test_a_module_registered_by_value_travels_by_value(tmp_path: Path, registered: str) -> None:
    """``cloudpickle.register_pickle_by_value`` holds for the submitted function too, decorated or not."""
    files = {
        "site-packages/helpers/__init__.py": "",
        "site-packages/helpers/deep.py": """
from kubefunc import remote
class Point:
    def __init__(self, x): self.x = x
def double(x): return Point(2 * x)
@remote
def fact(n): return 1 if n == 0 else n * fact(n - 1)
class Maker:
    @remote
    def make(self, x): return double(x)
""",
        "use.py": f"""
import cloudpickle, helpers.deep
from bare_pod import run
from kubefunc.function import _target
cloudpickle.register_pickle_by_value(helpers{registered.removeprefix("helpers")})
point = run(helpers.deep.double, 4)
assert type(point) is helpers.deep.Point and point.x == 8
assert run(_target(helpers.deep.fact), 5) == 120
assert run(_target(helpers.deep.Maker().make), 3).x == 6
deep = helpers.deep
assert run(lambda: deep.fact(3)) == 6
print("ok")
""",
    }
    assert run_program(tmp_path, "use.py", files, "site-packages") == "ok\n"


def test_programs_in_a_package_stay_executable(tmp_path: Path) -> None:
    """What a package runs at home it can run there."""
    files = {
        "tools/__init__.py": """
import os, subprocess
from pathlib import Path

def run():
    here = Path(__file__).parent
    assert not os.access(here / "data.txt", os.X_OK)
    return subprocess.run([here / "say.sh"], capture_output=True, text=True, check=True).stdout
""",
        "tools/say.sh": "#!/bin/sh\necho said\n",
        "tools/data.txt": "",
        "use.py": """
import os, pathlib
os.chmod(pathlib.Path(__file__).parent / "tools/say.sh", 0o755)
from bare_pod import run
import tools
print(run(tools.run), end="")
""",
    }
    assert run_program(tmp_path, "use.py", files) == "said\n"


def test_a_script_brings_its_neighbours_and_itself(tmp_path: Path) -> None:
    """Functions and classes of the script, by value; a module beside it, by file; a lazy import inside a function."""
    program = """
from bare_pod import run
import beside

class Point:
    def __init__(self, x): self.x = x

class Odd(Exception): pass

def half(n):
    import lazy
    if n % 2: raise Odd(n)
    return Point(lazy.LAZY + beside.shift(n) // 2)

point = run(half, 8)
assert type(point) is Point and point.x == 104 + 1, point.x
try:
    run(half, 7)
except Odd as error:
    assert error.args == (7,)
    print("ok")
"""
    files = {"use.py": program, "beside.py": "def shift(n): return n + 2", "lazy.py": "LAZY = 100"}
    assert run_program(tmp_path, "use.py", files) == "ok\n"


def test_decorated_functions_call_each_other_there(tmp_path: Path) -> None:
    """A module's @remote functions import as they are: recursion and calls in place work in the Pod."""
    files = {
        "tasks.py": """
from kubefunc import remote

@remote(retries=1, memory="1Gi")
def fact(n): return 1 if n == 0 else n * fact(n - 1)

class Maker:
    def __init__(self, base): self.base = base
    @remote
    def add(self, n): return Maker(self.base + fact(n))
    @staticmethod
    @remote
    def make(n): return Maker(n)
""",
        "use.py": """
from bare_pod import run
from tasks import Maker, fact
assert run(fact, 5) == 120
assert run(fact.function, 5) == 120
assert run(Maker(1).add.function, 3).base == 7
assert type(run(Maker.make.function, 3)) is Maker
print("ok")
""",
    }
    assert run_program(tmp_path, "use.py", files) == "ok\n"


def test_namespace_packages_travel_in_parts(tmp_path: Path) -> None:
    """Two directories of one namespace come from two roots and work there as one."""
    files = {
        "one/team/alpha/__init__.py": "from team.beta.tool import TOOL\ndef f(): return TOOL",
        "two/team/beta/tool.py": "TOOL = 5",
        "use.py": "from bare_pod import run\nfrom team.alpha import f\nassert run(f) == 5\nprint('ok')",
    }
    assert run_program(tmp_path, "use.py", files, "one", "two") == "ok\n"


def test_a_file_loaded_under_a_dotted_name_without_a_parent(tmp_path: Path) -> None:
    """Functions, classes and their instances work there and come back as themselves."""
    files = {
        "plugins/tool.py": "class Tool:\n    pass\ndef same(tool):\n    assert type(tool) is Tool\n    return Tool()",
        "use.py": """
import importlib.util, pathlib, sys
from bare_pod import run
spec = importlib.util.spec_from_file_location("no_parent.tool", pathlib.Path(__file__).parent / "plugins/tool.py")
tool = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tool
spec.loader.exec_module(tool)
assert type(run(tool.same, tool.Tool())) is tool.Tool
print("ok")
""",
    }
    assert run_program(tmp_path, "use.py", files) == "ok\n"


def test_a_programs_module_run_by_its_name(tmp_path: Path) -> None:
    """``python -m app.main``: the function is of __main__, and its relative imports still lead home."""
    files = {
        "app/__init__.py": "",
        "app/inner.py": "INNER = 3",
        "app/main.py": """
from bare_pod import run
def f():
    from .inner import INNER
    return INNER
if __name__ == "__main__":
    assert run(f) == 3
    print("ok")
""",
        "use.py": "import runpy\nrunpy.run_module('app.main', run_name='__main__', alter_sys=True)",
    }
    assert run_program(tmp_path, "use.py", files) == "ok\n"


def test_what_was_forked_by_spawn_travels(tmp_path: Path) -> None:
    """In a child of multiprocessing the script's module is called __mp_main__: it travels by value as well."""
    program = """
import multiprocessing
class Result:
    x = 4
def f(): return Result().x
def child():
    from bare_pod import run
    assert f.__module__ == "__mp_main__"
    assert run(f) == 4
    print("ok", flush=True)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
"""
    assert run_program(tmp_path, "use.py", {"use.py": program}) == "ok\n"


# --- the archive in a real interpreter ---


def start(archive: Path, code: str, *options: str) -> str:
    """Run code in a bare interpreter with the archive on its path; what it prints."""
    program = f"import sys; sys.path.insert(0, {str(archive)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly built kubefunc.pyz."""
    path = tmp_path_factory.mktemp("archive") / "kubefunc.pyz"
    path.write_bytes(build_archive({name: file.read_bytes() for name, file in find_sources().items()}))
    return path


def test_a_decorated_module_loads_compiled_code_only(archive: Path) -> None:
    """``from kubefunc import remote``, in a Pod, compiles nothing and loads no backend."""
    loaded = start(
        archive,
        "from kubefunc import remote, current, errors\nremote(cpu=2)(lambda: 1)\nimport cloudpickle\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.split('.')[0] in ('kubefunc', 'cloudpickle'): print(module.__file__)",
    ).split()
    assert len(loaded) > 5
    assert [file for file in loaded if not file.endswith(".pyc")] == []
    assert not [file for file in loaded if "backends" in file]


@pytest.mark.parametrize("name", kubefunc.__all__)
def test_every_public_name_can_be_imported_there(archive: Path, name: str) -> None:
    """Modules of the caller's may name what only callers use: an Executor, the type of a Call."""
    assert start(archive, f"from kubefunc import {name}\nprint('ok')") == "ok\n"


def test_a_misspelt_option_is_told_there(archive: Path) -> None:
    """With all that there are; the words of other tools for them stay here, where they are written."""
    code = "import kubefunc\ntry: kubefunc.remote(num_cpus=2)\nexcept kubefunc.errors.ConfigurationError as e: print(e)"
    said = start(archive, code)
    assert "there is no option 'num_cpus' (=2)" in said
    assert " cpu," in said


def test_an_unknown_program_ends_with_a_message(archive: Path) -> None:
    """The archive starts by itself."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", archive, "nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing" in done.stderr
