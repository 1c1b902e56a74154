"""``packages="sync"``: what of this machine's packages is sent, and what the Pod installs instead."""

from __future__ import annotations

import shutil
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from kubefunc import Pool
from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.attempts.cargo import cargo_of
from kubefunc.backends.kubernetes.control.call_objects import with_packages
from kubefunc.backends.runner_specs import packages_spec
from kubefunc.options import Options, parse_changes
from kubefunc.options.parsers.requirements import Requirements
from kubefunc.packing.code_archive import NO_CODE
from kubefunc.packing.packages import needed, sync
from kubefunc.packing.packages.imports import Need
from kubefunc.packing.payload import Payload
from kubefunc.sizes import size_text
from tests.wheels import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages, which this process sees."""
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(place))
    return place


def planned(tmp_path: Path, *modules: str) -> Requirements:
    """The plan for these modules."""
    return sync.plan(modules, tmp_path / "cache")


def sent_files(wanted: Requirements) -> set[str]:
    """The files in the archive."""
    assert wanted.sent is not None
    with tarfile.open(wanted.sent.path) as archive:
        return set(archive.getnames())


def test_a_package_is_sent_with_all_that_it_requires(site: Path, tmp_path: Path) -> None:
    """As it lies on disk: metadata, data files and modules; what the function does not import stays here."""
    install(site, "shop", "1.0", {"shop/__init__.py": "", "shop/prices.csv": "1"}, requires=["its-words>=1"])
    install(site, "its-words", "1.5", {"its_words/__init__.py": ""}, requires=["nowhere; python_version < '3'"])
    install(site, "other", "1.0")
    wanted = planned(tmp_path, "shop")
    assert sent_files(wanted) == {
        *("shop/__init__.py", "shop/prices.csv", "its_words/__init__.py"),
        *(f"shop-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")),
        *(f"its_words-1.5.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")),
    }
    assert wanted.lines == ()
    assert wanted.sent is not None
    assert wanted.sent.names == ("its-words 1.5", "shop 1.0")
    assert (wanted.sent.machine, wanted.sent.glibc) == ("", None)


def test_namespace_packages_and_pth_files_keep_their_places(site: Path, tmp_path: Path) -> None:
    """Two distributions in one package, and a file that extends the search path."""
    install(site, "parts-one", "1.0", {"parts/one.py": "", "parts_one.pth": "extra\n", "extra/more.py": ""})
    install(site, "parts-two", "1.0", {"parts/two.py": ""})
    assert {"parts/one.py", "parts/two.py", "parts_one.pth", "extra/more.py"} <= sent_files(planned(tmp_path, "parts"))


def test_compiled_parts_say_what_they_fit(site: Path, tmp_path: Path) -> None:
    """By the tags of their wheel: this processor, and the oldest C library that they promise."""
    files = {"fast/__init__.py": "", "fast/_core.so": "ELF", "fast.libs/libblas.so": "ELF"}
    tag = "cp311-cp311-manylinux_2_27_x86_64\nTag: cp311-cp311-manylinux_2_28_x86_64"
    install(site, "fast", "1.0", files, tag=tag)
    wanted = planned(tmp_path, "fast")
    assert wanted.sent is not None
    assert wanted.sent.glibc == (2, 27)
    assert wanted.sent.machine
    assert "fast.libs/libblas.so" in sent_files(wanted)


def test_what_does_not_fit_linux_is_installed_by_name_and_version(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled parts of another system; so is a package whose files nobody has listed."""
    install(site, "fast", "1.0", {"fast/__init__.py": "", "fast/_core.so": ""}, requires=["plain"])
    install(site, "plain", "2.0")
    install(site, "unlisted", "3.0")
    (site / "unlisted-3.0.dist-info" / "RECORD").unlink()
    (site / "unlisted-3.0.dist-info" / "top_level.txt").write_text("unlisted\n")
    monkeypatch.setattr("sys.platform", "darwin")
    wanted = planned(tmp_path, "fast", "unlisted")
    assert wanted.sent is not None
    assert wanted.sent.names == ("plain 2.0",)
    assert set(wanted.lines) == {"fast==1.0", "unlisted==3.0"}
    assert set(wanted.sent.pinned) == {"fast==1.0", "plain==2.0", "unlisted==3.0"}


def test_an_editable_install_travels_as_the_project_that_it_is(site: Path, tmp_path: Path) -> None:
    """It is not sent a second time; what it requires is."""
    install(site, "mine", "1.0", {"mine.py": ""}, requires=["plain"])
    (site / "mine-1.0.dist-info" / "direct_url.json").write_text('{"url": "file:///p", "dir_info": {"editable": true}}')
    install(site, "plain", "2.0")
    wanted = planned(tmp_path, "mine")
    assert wanted.sent is not None
    assert wanted.sent.names == ("plain 2.0",)
    assert wanted.lines == ()


def test_the_archive_is_made_once(site: Path, tmp_path: Path) -> None:
    """It is known by what is in it, and kept in the user's cache."""
    install(site, "plain", "2.0")
    told: list[str] = []
    first = sync.plan(["plain"], tmp_path / "cache", tell=told.append)
    assert first.sent is not None
    assert sync.plan(["plain"], tmp_path / "cache", tell=told.append) == first
    (words,) = told
    assert words.startswith("compressing 1 package of your Python for Pods, once: ")
    made = Path(first.sent.path).stat().st_ino
    assert planned(tmp_path, "plain") == first
    assert Path(first.sent.path).stat().st_ino == made
    shutil.rmtree(site / "plain-2.0.dist-info")  # as pip does
    install(site, "plain", "2.0", {"plain.py": "CHANGED = 1\n"})
    again = planned(tmp_path, "plain")
    assert again.sent is not None
    assert again.sent.path != first.sent.path


def test_tests_of_packages_stay_here(site: Path, tmp_path: Path) -> None:
    """Nobody runs them in a Pod, and they are a sixth of numpy and pandas; unless the function's code imports them."""
    files = {"shop/__init__.py": "", "shop/tests/test_it.py": "", "shop/tests.py": "", "tests/__init__.py": ""}
    install(site, "shop", "1.0", files)
    names = {"shop/__init__.py", "shop/tests.py", "tests/__init__.py"}
    assert {name for name in sent_files(planned(tmp_path, "shop")) if "dist-info" not in name} == names
    assert "shop/tests/test_it.py" in sent_files(planned(tmp_path, "shop.tests.test_it"))


def test_more_than_sync_limit_is_installed_by_name_and_version(site: Path, tmp_path: Path) -> None:
    """It counts for all Pods together, compressed. What is installed says why."""
    install(site, "plain", "2.0", {"plain.py": "".join(map(str, range(20_000)))})
    fits = sync.plan(["plain"], tmp_path)
    assert fits.sent is not None
    assert sync.plan(["plain"], tmp_path, limit=2 * fits.sent.size, pods=2) == fits
    over = sync.plan(["plain"], tmp_path, limit=2 * fits.sent.size, pods=3)
    assert (over.sent, over.lines) == (None, ("plain==2.0",))
    assert over.why == f"{size_text(fits.sent.size)} for 3 Pods is more than sync_limit= allows to send"
    assert packages_spec(over, Options(packages=over))["why"] == over.why


def test_what_is_far_too_large_is_not_packed_to_find_that_out(site: Path, tmp_path: Path) -> None:
    """Compressing gigabytes takes minutes."""
    install(site, "plain", "2.0", {"plain.py": "x" * 1_000_000})
    over = sync.plan(["plain"], tmp_path / "cache", limit=100_000)
    assert over.lines == ("plain==2.0",)
    assert "KiB on disk for a Pod" in over.why
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changes", "pods"),
    [
        ({}, 1),
        ({"shape": "map", "items": dict.fromkeys(range(100), b""), "count": 100, "chunksize": 10}, 10),
        ({"shape": "map", "items": dict.fromkeys(range(100), b""), "count": 100}, 2),
        ({"pool": Pool(max_workers=50)}, 1),
        ({"pool": Pool(min_workers=3, max_workers=50)}, 3),
    ],
    ids=["call", "chunks", "few-pods", "pool", "workers"],
)
def test_pods_are_counted_as_they_start(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], pods: int
) -> None:
    """Those of a map as it is laid out; of a pool those that are always there."""
    install(site, "plain", "2.0", {"plain.py": "".join(map(str, range(700_000)))})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sent = planned(tmp_path, "plain").sent
    assert sent is not None
    pool = changes.pop("pool", None)

    def plan(limit: int) -> Requirements:
        options = Options.of(packages="sync", sync_limit=limit, pool=pool)
        found = with_packages(submission(options, **changes)).options.requirements()
        assert found is not None
        return found

    assert plan(pods * sent.size).sent is not None
    assert plan(pods * sent.size - 1).sent is None


def submission(options: Options, **changes: Any) -> Submission:
    """Of a function that imports ``plain``."""
    payload = Payload(NO_CODE, b"", imported=lambda: frozenset({"plain"}))
    return Submission(call="c", function="f", options=options, payload=payload, key=b"", **changes)


def test_workers_get_what_they_preload(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what the function imports."""
    install(site, "plain", "2.0")
    install(site, "other", "1.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = Options.of(packages="sync", pool=Pool(preload=["other"]))
    found = with_packages(submission(options)).options.requirements()
    assert found is not None
    assert {each.name for each in found.parsed} == {"plain", "other"}


def test_the_runner_is_told_and_the_courier_brings_it(site: Path, tmp_path: Path) -> None:
    """The archive is no part of a Secret; one line says what it holds and how large it is."""
    install(site, "plain", "2.0")
    wanted = planned(tmp_path, "plain")
    options = Options(packages=wanted)
    assert wanted.sent is not None
    told = packages_spec(wanted, options)
    sent: Any = told["sent"]
    assert sent["title"] == f"plain 2.0 ({wanted.sent.size} bytes from your machine)"
    assert sent["pinned"] == ("plain==2.0",)

    class Submitted:
        """As much of a submission as matters here."""

        payload = type("Payload", (), {"size": 10, "data": b""})

        def __init__(self) -> None:
            self.options = options

    cargo = cargo_of(Submitted())  # type: ignore[arg-type]
    assert bytes(cargo["packages"]()) == Path(wanted.sent.path).read_bytes()


def test_modules_that_sync_brings_are_no_alarm(site: Path, tmp_path: Path) -> None:
    """They are known by their distributions, whatever their names."""
    install(site, "the-shop", "1.0", {"shop.py": ""})
    needed.check(lambda: [Need("shop", "imported by x.py, line 1")], Options(packages=planned(tmp_path, "shop")))


def test_sync_is_a_word_of_the_option() -> None:
    """It needs no list and no file; on this machine it asks for nothing."""
    assert parse_changes("@remote", packages="sync")["packages"] == "sync"
    assert Options.of(packages="sync").requirements() is None


def test_commands_and_caches_stay_here(tmp_path: Path) -> None:
    """Of a package of this machine: the module and its metadata."""
    files = sent_files(sync.plan(["click"], tmp_path))
    assert {"click/__init__.py", f"click-{metadata.version('click')}.dist-info/METADATA"} <= files
    assert not [name for name in files if "__pycache__" in name or ".." in name]
