"""``packages=`` in a Pod: its programs as processes of this machine, real installers, an index on loopback."""

from __future__ import annotations

import importlib.util
import json
import pickle
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.packing.packages import sync
from kubefunc.runner import EXIT_RAISED, EXIT_TERMINATED, EXIT_VALUE
from tests.local.pod import Pod
from tests.wheels import Index, install, served, wheel

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")

Installing = Callable[..., Pod]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with a few small packages."""
    directory = tmp_path_factory.mktemp("wheels")
    wheel(directory, "greeting", "1.0")
    wheel(directory, "greeting", "2.0", requires=["its-words>=1"])
    wheel(directory, "its-words", "1.5", {"its_words/__init__.py": "", "its_words/data.txt": "hello"})
    with served(directory) as running:
        yield running


@pytest.fixture
def installing(tmp_path: Path, index: Index) -> Installing:
    """Makes a Pod whose function needs packages of the index."""

    def make(function: Callable[[], object], *requirements: str, **changes: Any) -> Pod:
        spec = {
            "requirements": requirements,
            "constraints": [],
            "hashes": False,
            "index": index.url,
            "title": ", ".join(requirements),
            "why": "",
            "seconds": 60.0,
            "cache": False,
            **changes,
        }
        directory = tmp_path / f"pod-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        pod = Pod(directory, function, packages=spec)
        # Nothing of this machine's settings for pip: an image has none.
        pod.environ = {name: value for name, value in pod.environ.items() if not name.startswith(("PIP_", "UV_"))}
        pod.environ["PATH"] = "/usr/bin:/bin"
        pod.environ["KUBEFUNC_PACKAGES_DIR"] = str(tmp_path / "packages")
        (tmp_path / "packages").mkdir(exist_ok=True)
        return pod

    return make


def ends(process: subprocess.Popen[bytes]) -> int:
    """The exit code, once it has ended."""
    with process:
        return process.wait(60)


def versions() -> tuple[str, str]:
    """What the function gets to see: the package, and what it requires, with its data."""
    from importlib import metadata, resources

    greeting = importlib.import_module("greeting")
    return greeting.VERSION, metadata.version("its-words") + resources.files("its_words").joinpath(
        "data.txt"
    ).read_text()


def value(pod: Pod) -> Any:
    """What the function returned."""
    return pickle.loads(pod.result().body)


def failure(pod: Pod) -> dict[str, Any]:
    """What the envelope says of an installation that failed."""
    assert pod.result().header["code"] == "packages"
    found: dict[str, Any] = pod.result().header["detail"]
    return found


def test_packages_are_there_before_the_function_is_loaded(installing: Installing) -> None:
    """With what they require; the installer's output is the call's, between two lines of ours."""
    pod = installing(versions, "greeting>=2")
    code, printed = pod.run("main")
    assert code == EXIT_VALUE, printed.decode()
    assert value(pod) == ("2.0", "1.5hello")
    lines = printed.decode().splitlines()
    assert lines[0] == "kubefunc: installing packages with pip: greeting>=2"
    assert any(line.startswith("Collecting greeting") for line in lines)
    assert lines[-1].startswith("kubefunc: packages installed in ")
    assert pod.result().printed == len(printed)


def test_programs_that_the_function_starts_have_them_too(installing: Installing) -> None:
    """``sys.executable``, and ``python3`` of the PATH."""

    def started() -> list[str]:
        command = "import greeting; print(greeting.VERSION)"
        return [subprocess.check_output([each, "-c", command], text=True) for each in (sys.executable, "python3")]

    pod = installing(started, "greeting==1.0")
    assert pod.run("main")[0] == EXIT_VALUE
    assert value(pod) == ["1.0\n", "1.0\n"]


def test_what_the_image_has_already_is_not_installed_again(installing: Installing, index: Index) -> None:
    """pip sees the packages of the image, and the function does as well."""

    def both() -> tuple[str, bool]:
        return importlib.import_module("greeting").VERSION, importlib.util.find_spec("cloudpickle") is not None

    index.asked.clear()
    pod = installing(both, "greeting==1.0", "cloudpickle")
    assert pod.run("main")[0] == EXIT_VALUE
    assert value(pod) == ("1.0", True)
    assert not [path for path in index.asked if "cloudpickle" in path]


def test_uv_goes_before_pip(installing: Installing, tmp_path: Path) -> None:
    """Where the image has it."""
    import uv

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").symlink_to(uv.find_uv_bin())
    pod = installing(versions, "greeting")
    pod.environ["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    code, printed = pod.run("main")
    assert code == EXIT_VALUE, printed.decode()
    assert value(pod) == ("2.0", "1.5hello")
    assert printed.startswith(b"kubefunc: installing packages with uv: greeting\n")
    pod = installing(versions, "no-such-thing")
    pod.environ["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    assert pod.run("main")[0] == EXIT_RAISED
    assert "no-such-thing was not found" in failure(pod)["output"]


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("no-such-thing", "No matching distribution found for no-such-thing"),
        ("greeting>=9", "(from versions: 1.0, 2.0)"),
    ],
)
def test_what_the_index_does_not_have(installing: Installing, requirement: str, said: str) -> None:
    """The function is not loaded; the error carries the installer's last lines."""
    pod = installing(versions, requirement)
    assert pod.run("main")[0] == EXIT_RAISED
    found = failure(pod)
    assert (found["kind"], found["installer"], found["exit_code"]) == ("failed", "pip", 1)
    assert said in found["output"]
    assert not list(Path(pod.environ["KUBEFUNC_PACKAGES_DIR"]).iterdir())


def test_an_index_that_does_not_answer(installing: Installing) -> None:
    """The installer may take so long, and no longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        pod = installing(versions, "greeting", index=url, seconds=2.0)
        assert pod.run("main")[0] == EXIT_RAISED
        assert failure(pod)["kind"] == "timeout"


def test_a_volume_that_cannot_be_written(installing: Installing, tmp_path: Path) -> None:
    """The error names the place and what the system says."""
    pod = installing(versions, "greeting")
    (tmp_path / "packages").rmdir()
    (tmp_path / "packages").write_text("a file")
    assert pod.run("main")[0] == EXIT_RAISED
    found = failure(pod)
    assert found["kind"] == "volume"
    assert found["path"].startswith(str(tmp_path / "packages"))


def test_an_image_without_installer(installing: Installing, tmp_path: Path) -> None:
    """Neither uv nor pip."""
    pod = without_installer(installing(versions, "greeting"), tmp_path)
    assert pod.run("main")[0] == EXIT_RAISED
    assert failure(pod)["kind"] == "none"


def without_installer(pod: Pod, tmp_path: Path) -> Pod:
    """The Pod, of an image with neither uv nor pip."""
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    pod.environ["PATH"] = str(bare / "bin")
    pod.environ["PYTHONPATH"] += f":{Path(importlib.import_module('cloudpickle').__file__ or '').parents[1]}"
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'pip' else find(name, package)\n"
    )
    pod.environ["PYTHONPATH"] = f"{blocked}:{pod.environ['PYTHONPATH']}"
    return pod


def test_a_password_in_the_index_is_shown_nowhere(installing: Installing, tmp_path: Path) -> None:
    """Not in the output, and not in the error."""
    wheel(tmp_path, "secretive", "1.0")
    with served(tmp_path, "ada:s3cret") as guarded:
        pod = installing(lambda: importlib.import_module("secretive").VERSION, "secretive", index=guarded.url)
        code, printed = pod.run("main")
        assert (code, value(pod)) == (EXIT_VALUE, "1.0"), printed.decode()
        assert b"s3cret" not in printed
        refused = installing(versions, "nowhere @ http://ada:s3cret@127.0.0.1:9/nowhere-1.0-py3-none-any.whl")
        code, printed = refused.run("main")
        assert code == EXIT_RAISED
        assert b"s3cret" not in printed
        assert "s3cret" not in str(refused.result().header)


def test_hashes_are_checked(installing: Installing, index: Index) -> None:
    """As in a file of pinned requirements; a wheel with another hash is refused."""
    import hashlib

    sha256 = hashlib.sha256((index.directory / "greeting-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    right = installing(
        lambda: importlib.import_module("greeting").VERSION, f"greeting==1.0 --hash=sha256:{sha256}", hashes=True
    )
    assert right.run("main")[0] == EXIT_VALUE
    wrong = installing(versions, f"greeting==1.0 --hash=sha256:{'0' * 64}", hashes=True)
    assert wrong.run("main")[0] == EXIT_RAISED
    assert "HASH" in failure(wrong)["output"].upper()


def test_the_end_of_the_pod_ends_the_installer(installing: Installing) -> None:
    """SIGTERM while it waits for the index: no result, and another Pod takes its place."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pod = installing(versions, "greeting", index=f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        main = pod.start("main")
        silent.settimeout(30)
        connection, _ = silent.accept()
        main.send_signal(signal.SIGTERM)
        assert ends(main) == EXIT_TERMINATED
        connection.close()
    assert not pod.has("result")


# -- what is sent from the caller's machine


def sent(pod: Pod, tmp_path: Path, **fits: Any) -> dict[str, Any]:
    """Bring an archive with one package to the Pod, as its courier does."""
    install(tmp_path / "site", "greeting", "7.0", {"greeting.py": "VERSION = '7.0'\n"})
    with tarfile.open(pod.out_dir / "packages", "w:gz") as archive:
        archive.add(tmp_path / "site", arcname=".")
    return {"title": "greeting 7.0", "digest": "d", "machine": "", "glibc": None, "pinned": ["greeting==1.0"], **fits}


def test_packages_that_are_sent_need_no_installer(installing: Installing, tmp_path: Path) -> None:
    """And no index: they are unpacked, and the archive is removed."""
    pod = installing(lambda: importlib.import_module("greeting").VERSION, index="http://127.0.0.1:9/simple")
    tell(pod, sent=sent(pod, tmp_path), requirements=[])
    code, printed = pod.run("main")
    assert (code, value(pod)) == (EXIT_VALUE, "7.0"), printed.decode()
    assert printed.startswith(b"kubefunc: unpacking packages: greeting 7.0\n")
    assert not pod.has("packages")


def test_what_is_sent_works_as_it_does_where_it_is_installed(
    installing: Installing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one namespace, ``.pth`` files, data beside code, and entry points."""
    site = tmp_path / "here" / "site-packages"
    entry = {"parts_two-1.0.dist-info/entry_points.txt": "[shop.plugins]\nsecond = parts.two:run\n"}
    install(
        site, "parts-one", "1.0", {"parts/one.py": "", "parts/one.txt": "data", "one.pth": "extra\n", "extra/x.py": ""}
    )
    install(site, "parts-two", "1.0", {"parts/two.py": "def run():\n    return 2\n", **entry}, requires=["parts-one"])
    monkeypatch.syspath_prepend(str(site))
    planned = sync.plan(["parts"], tmp_path / "cache")
    assert planned.sent is not None

    def use() -> tuple[int, str, str]:
        from importlib import metadata, resources

        (plugin,) = metadata.entry_points(group="shop.plugins")
        extra = importlib.import_module("x").__name__
        return plugin.load()(), resources.files("parts").joinpath("one.txt").read_text(), extra

    pod = installing(use)
    shutil.copy(planned.sent.path, pod.out_dir / "packages")
    tell(pod, sent={"title": "parts", "digest": "d", "machine": "", "glibc": None, "pinned": []}, requirements=[])
    code, printed = pod.run("main")
    assert (code, value(pod)) == (EXIT_VALUE, (2, "data", "x")), printed.decode()


def test_an_image_without_installer_says_why_one_is_needed(installing: Installing, tmp_path: Path) -> None:
    """Where the packages of this machine could not be used."""
    pod = without_installer(installing(versions), tmp_path)
    tell(pod, sent=sent(pod, tmp_path, machine="z80", glibc=[2, 0]), requirements=[])
    assert pod.run("main")[0] == EXIT_RAISED
    assert "need z80 glibc 2.0, and the Pod has" in failure(pod)["why"]


@pytest.mark.parametrize(
    "fits", [{"machine": "z80", "glibc": [2, 0]}, {"machine": platform.machine(), "glibc": [99, 0]}]
)
def test_where_they_do_not_fit_the_same_versions_are_installed(
    installing: Installing, tmp_path: Path, fits: dict[str, Any]
) -> None:
    """Another processor, or an older C library."""
    pod = installing(lambda: importlib.import_module("greeting").VERSION)
    tell(pod, sent=sent(pod, tmp_path, **fits), requirements=[])
    code, printed = pod.run("main")
    assert (code, value(pod)) == (EXIT_VALUE, "1.0"), printed.decode()
    assert b"installing packages with pip: greeting==1.0 (those of your machine need " in printed
    assert f"{fits['machine']} glibc {fits['glibc'][0]}.0, and the Pod has {platform.machine()}" in printed.decode()


def tell(pod: Pod, **changes: Any) -> None:
    """Change what the Pod is told about packages."""
    spec = json.loads((pod.in_dir / "spec.json").read_text())
    spec["packages"].update(changes, title="")
    pod.write("spec.json", json.dumps(spec).encode())


# -- the cache


def installed(printed: bytes) -> bool:
    """Whether this Pod has installed something."""
    return b"installing packages" in printed


def test_the_second_pod_with_a_cache_installs_nothing(installing: Installing, index: Index) -> None:
    """The order of the requirements does not matter; another requirement does."""
    first = installing(versions, "greeting>=2", "its-words", cache=True)
    code, printed = first.run("main")
    assert (code, installed(printed)) == (EXIT_VALUE, True), printed.decode()
    index.asked.clear()
    second = installing(versions, "its-words", "greeting>=2", cache=True)
    code, printed = second.run("main")
    assert (code, value(second)) == (EXIT_VALUE, ("2.0", "1.5hello"))
    assert printed == b"kubefunc: packages found in the cache: its-words, greeting>=2\n"
    assert index.asked == []
    other = installing(lambda: importlib.import_module("greeting").VERSION, "greeting<2", cache=True)
    assert installed(other.run("main")[1])
    assert value(other) == "1.0"


def test_two_pods_at_once_install_once(installing: Installing) -> None:
    """The second waits for the first, and says so."""
    pods = [installing(versions, "greeting", cache=True) for _ in range(2)]
    mains = [pod.start("main") for pod in pods]
    printed = [main.communicate(timeout=60)[0] for main in mains]
    assert [value(pod) for pod in pods] == [("2.0", "1.5hello")] * 2
    assert sorted(map(installed, printed)) == [False, True]


def test_what_a_killed_pod_has_left_in_the_cache_is_removed(installing: Installing, tmp_path: Path) -> None:
    """It is not taken for an environment, and does not stay."""
    volume = tmp_path / "packages"
    installing(versions, "greeting", cache=True).run("main")
    (link,) = [path for path in volume.iterdir() if path.is_symlink()]
    link.unlink()
    half = volume / f"{link.name}.0badcafe"
    half.mkdir()
    assert installed(installing(versions, "greeting", cache=True).run("main")[1])
    assert len([path for path in volume.iterdir() if path.is_dir() and not path.is_symlink()]) == 1
    assert not half.exists()
