"""Modules that a Pod will lack are told before anything is sent; what may be there is no alarm."""

from __future__ import annotations

import ast
import collections
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cloudpickle
import pytest

import kubefunc
from kubefunc import Pool
from kubefunc.errors import ConfigurationError, MissingModuleError, SerializationError
from kubefunc.options import Options
from kubefunc.packing.packages import imports, missing, needed
from kubefunc.packing.packages.imports import Need
from kubefunc.packing.payload import Packer
from kubefunc.volumes import EmptyDir
from tests.wheels import install


def surely(source: str) -> list[str]:
    """What these statements import in any case."""
    tree = ast.parse(textwrap.dedent(source))
    return [each.module for each in imports.sure_imports(tree.body, "app")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy as np, pandas.io", ["numpy", "pandas.io"]),
        ("from sklearn import svm\nfrom . import other\nfrom .core import x", ["sklearn", "app", "app.core"]),
        ("with lock:\n    import numpy", ["numpy"]),
        ("try:\n    import numpy\nexcept ImportError:\n    numpy = None", []),
        ("if TYPE_CHECKING:\n    import numpy", []),
        ("if sys.platform == 'win32':\n    import win32api", []),
        ("with contextlib.suppress(ImportError):\n    import numpy", []),
        ("for name in names:\n    import numpy", []),
        ("def f():\n    import numpy", []),
        ("class C:\n    def f(self):\n        return 1\nimport numpy", ["numpy"]),
        ("if done:\n    raise SystemExit\nimport numpy", []),
        ("if importlib.util.find_spec('numpy'):\n    import numpy", []),
        ("HAS = importlib.util.find_spec('numpy') is not None\nif HAS:\n    import numpy", []),
        ("if typing.TYPE_CHECKING:\n    import numpy\nelse:\n    numpy = None", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from numpy import ndarray", ["typing"]),
        ("import google.cloud.storage", ["google.cloud.storage"]),
        ("from ..core.data import load\nfrom .. import other", ["", ""]),
        ("match kind:\n    case 'x':\n        import numpy", []),
        ("while True:\n    import numpy", []),
        ("numpy = None\ntry:\n    import numpy\nfinally:\n    done = True", []),
        ("def f():\n    return 1\n\nasync def g():\n    yield 1\n\nimport numpy", ["numpy"]),
    ],
)
def test_only_imports_that_run_in_any_case_count(source: str, expected: list[str]) -> None:
    """Conditional ones, ``try: import`` and those of other functions are no alarm."""
    assert surely(source) == expected


@pytest.mark.parametrize(
    ("value", "module"),
    [
        (collections.OrderedDict(), "collections"),
        (click.Path(), "click.types"),
        (click, "click"),
        ([click, pickle, click], "pickle"),
        (lambda x: click.style(x), "click"),
    ],
    ids=["class", "value", "module", "modules", "global"],
)
def test_what_unpickling_imports_is_read_from_the_pickle(value: object, module: str) -> None:
    """References to classes and functions, and modules that a function uses."""
    assert module in imports.globals_in(cloudpickle.dumps(value, 5))


def test_texts_that_only_look_like_modules_are_none() -> None:
    """A function that travels by value knows the name of its module, and needs it not."""
    assert "click" not in imports.globals_in(pickle.dumps(["click", {"module": "click"}, b"click"], 5))


# -- what a call needs


Project = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes modules of a project and imports the function ``run`` of its module ``shop``."""
    before = set(sys.modules)

    def write(**files: str) -> Any:
        for name, source in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(textwrap.dedent(source))
        (tmp_path / "__init__.py").unlink()
        monkeypatch.syspath_prepend(str(tmp_path))
        return __import__("shop").run

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def needs(function: Any, *args: Any) -> dict[str, str]:
    """Module and reason."""
    return {need.module: need.why for need in Packer.for_cluster().pack(function, args).needs()}


def test_what_the_functions_modules_import_when_they_are_loaded(project: Project) -> None:
    """Through the project's own modules, with file and line; what only other functions import is not among it."""
    run = project(
        shop="from parts import prices\n\ndef run():\n    return prices.total()\n",
        parts__prices="import json\nimport click\n\ndef total():\n    import pandas\n    return click\n",
        parts__other="import scipy\n",
    )
    assert needs(run) == {"click": "imported by parts/prices.py, line 2"}


def test_what_the_functions_own_body_imports(project: Project) -> None:
    """With file and line of the program."""
    run = project(shop="def run():\n    import os\n    import pandas as pd\n    return pd\n")
    assert needs(run) == {"pandas": "imported by shop.py, line 3"}


def test_what_the_function_and_its_arguments_refer_to() -> None:
    """Modules of a program, and the classes of arguments."""
    assert needs(lambda x: x, click.Path()) == {"click.types": "the function or its arguments refer to it"}


def test_nothing_is_needed_by_most_functions(project: Project) -> None:
    """The standard library, kubefunc, and what travels."""
    run = project(
        shop="import json\nimport kubefunc\nfrom parts import prices\n\ndef run():\n    import decimal\n",
        parts__prices="from . import prices as me\n",
    )
    assert needs(run, collections.OrderedDict()) == {}


# -- what is said


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few packages, as they are installed on a user's machine."""
    site = tmp_path / "site-packages"
    install(site, "scikit-learn", "1.5", {"sklearn/__init__.py": ""}, requires=["numpy>=1.2", "joblib; extra == 'x'"])
    install(site, "numpy", "2.1", {"numpy/__init__.py": ""})
    install(site, "pandas", "2.2", {"pandas/__init__.py": ""}, requires=["numpy; python_version > '3'"])
    monkeypatch.syspath_prepend(str(site))


def refused(*modules: str, **options: Any) -> MissingModuleError:
    """The error for a call that needs these."""
    with pytest.raises(MissingModuleError) as caught:
        needed.check(lambda: [Need(name, "imported by shop.py, line 2") for name in modules], Options.of(**options))
    return caught.value


@pytest.mark.usefixtures("installed")
def test_the_error_names_module_line_and_way_out() -> None:
    """With the name under which the module's distribution is installed here."""
    error = refused("sklearn.svm")
    assert isinstance(error, ImportError)
    assert isinstance(error, SerializationError)
    assert error.name == "sklearn.svm"
    text = str(error)
    assert "sklearn (imported by shop.py, line 2)" in text
    assert "packages=['scikit-learn']" in text
    assert "image=..." in text
    assert "add 'pandas' to packages=" in str(refused("pandas", packages=["numpy"]))


@pytest.mark.usefixtures("installed")
def test_what_workers_preload_is_needed_too() -> None:
    """It is named before any worker starts; what the packages bring is no alarm."""
    pool = Pool(preload=["json", "sklearn.svm"])
    assert "sklearn (imported by workers, preload=)" in str(refused(pool=pool))
    needed.check(list, Options.of(pool=pool, packages=["scikit-learn"]))


def test_code_of_ones_own_cannot_be_preloaded(project: Project) -> None:
    """It is sent with each call, so that workers never run old code; an image may have it."""
    project(shop="def run():\n    pass\n")
    pool = Pool(preload=["shop"])
    with pytest.raises(ConfigurationError, match=r"preload='shop': that is code of your own"):
        needed.check(list, Options.of(pool=pool))
    needed.check(list, Options.of(pool=pool, image="team/base:1"))


@pytest.mark.usefixtures("installed")
def test_of_a_shared_namespace_the_right_distribution_is_named(tmp_path: Path) -> None:
    """``google`` is in many of them."""
    for name in ("google-auth", "google-cloud-storage", "protobuf"):
        path = {"google-auth": "auth", "google-cloud-storage": "cloud/storage", "protobuf": "protobuf"}[name]
        install(tmp_path / "site-packages", name, "1.0", {f"google/{path}/__init__.py": ""})
    assert "packages=['google-cloud-storage']" in str(refused("google.cloud.storage"))
    assert "packages=['protobuf']" in str(refused("google.protobuf.message"))


def test_setuptools_is_named_for_what_only_it_has() -> None:
    """``distutils`` has left the standard library; no package has its name."""
    assert missing.distribution_for("distutils.version") == "setuptools"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "options",
    [
        {"image": "team/base:1"},
        {"volumes": {"/extra": EmptyDir()}},
        {"env": {"PYTHONPATH": "/lib"}},
        {"pod_template": {"volumes": []}},
        {"job_template": {"spec": {}}},
        {"packages": ["pandas"]},
        {"packages": ["numpy>=2"]},
        {"packages": ["surely-not-installed-here"]},
    ],
    ids=lambda options: next(iter(options)) + str(len(str(options))),
)
def test_what_may_bring_the_module_is_no_alarm(options: dict[str, Any]) -> None:
    """The user's image, volumes and templates; packages that bring it, and packages that are not known here."""
    needed.check(lambda: [Need("numpy.linalg", "imported by shop.py, line 1")], Options.of(**options))


def test_the_error_travels() -> None:
    """As all errors do."""
    again = pickle.loads(pickle.dumps(kubefunc.errors.MissingModuleError("told", name="numpy")))
    assert (str(again), again.name) == ("told", "numpy")


def test_all_that_may_be_imported_is_found_for_sync(project: Project) -> None:
    """Also inside functions and on conditions; but only through modules that the function's own one leads to."""
    run = project(
        shop="def run():\n    from parts import prices\n    return prices\n",
        parts__prices="try:\n    import numpy\nexcept ImportError:\n    pass\n\ndef later():\n    import pandas\n",
        parts__other="import scipy\n",
    )
    found = Packer.for_cluster().pack(run).imported()
    assert {"numpy", "pandas", "parts.prices"} <= found
    assert "scipy" not in found


def test_a_function_that_travels_by_value_leads_to_what_it_imports_itself() -> None:
    """Not to what the module that defines it imports besides."""

    def run() -> object:
        import pandas

        return pandas

    found = {name for name in Packer.for_cluster().pack(run).imported() if imports.is_foreign(name)}
    assert found == {"pandas"}
