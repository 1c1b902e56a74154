"""Which modules travel, and how: shown on small projects in a directory of their own."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cloudpickle
import pytest

from kubefunc.errors import SerializationError
from kubefunc.packing import code_archive, collector
from kubefunc.packing.code import ProjectCode
from kubefunc.packing.code_archive import CodeArchive
from kubefunc.packing.modules import UnitFinder, has_source, imports_in_code, is_hidden, package_of, unit_of
from kubefunc.packing.packages.imports import read_imports
from kubefunc.packing.project_files import list_files, read_file, read_files
from kubefunc.runner.protocol.wire import join_files, split_files

Project = Callable[[dict[str, str]], Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes files into a directory that is on sys.path; forgets afterwards what was imported from it."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> Path:
        write_files(tmp_path, files)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in str(sys.modules[name]):
            del sys.modules[name]


def write_files(root: Path, files: dict[str, str]) -> None:
    """Files by their names below the root."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    importlib.invalidate_caches()


def names(archive: CodeArchive) -> list[str]:
    """The files in the archive."""
    return [path for path, _, _ in split_files(archive.data)] if archive.data else []


def content(archive: CodeArchive, name: str) -> bytes:
    """One file in the archive."""
    return next(content for path, _, content in split_files(archive.data) if path == name)


# --- what does not travel ---


@pytest.mark.parametrize(
    "name",
    ["json", "json.decoder", "os.path", "sys", "_thread", "zlib", "cloudpickle", "pytest", "kubefunc.packing.code"],
)
def test_what_the_image_has_stays_here(name: str) -> None:
    """The standard library, installed packages and kubefunc itself do not travel."""
    importlib.import_module(name)
    assert unit_of(name) is None


@pytest.mark.parametrize("name", ["__main__", "no_such_module", "no.such.module", "distutils", "idlelib.idle"])
def test_what_has_no_file_of_the_caller_stays_here(name: str) -> None:
    """A name without a project file behind it is nobody's unit, and looking for it imports nothing."""
    before = set(sys.modules)
    assert unit_of(name) is None
    assert set(sys.modules) == before


def test_entries_of_sys_path_that_are_no_text(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python passes over a Path in sys.path, a common slip; so does the search for modules."""
    root = project({"slip_a.py": "import slip_b", "hidden/slip_b.py": ""})
    for entry in (root / "hidden", None, b"/tmp"):
        monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert names(ProjectCode().collect(["slip_a"])) == ["slip_a.py"]


class Trap:
    """An import hook, or the finder of a directory, that fails."""

    def __init__(self, entry: str = "") -> None:
        if entry == "trap:at once":
            raise RuntimeError("the hook is broken")
        if not entry.startswith("trap:"):
            raise ImportError

    @classmethod
    def find_spec(cls, name: str, *rest: object) -> None:
        if not name.startswith(("hooked_", "nowhere_")):
            return
        raise RuntimeError(f"the finder is broken for {name}")


def test_import_hooks_that_raise(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' finders are only asked: what one of them cannot say, another may."""
    project({"hooked_a.py": "import hooked_b, nowhere_at_all", "hooked_b.py": ""})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Trap, object()])
    monkeypatch.setattr(sys, "path_hooks", [*sys.path_hooks, Trap])
    monkeypatch.setattr(sys, "path", ["trap:at once", "trap:when asked", *sys.path])
    assert names(ProjectCode().collect(["hooked_a"])) == ["hooked_a.py", "hooked_b.py"]


def test_a_namespace_whose_parent_is_not_loaded(project: Project) -> None:
    """Its directories are known all the same, though Python would look for them through the parent."""
    project({"orphan_a/inner/tool.py": ""})
    importlib.import_module("orphan_a.inner.tool")
    del sys.modules["orphan_a"]
    assert names(ProjectCode().collect(["orphan_a.inner.tool"])) == ["orphan_a/inner/tool.py"]


def test_a_virtual_environment_inside_the_project_stays_here(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in a site-packages directory is installed, wherever that directory is."""
    root = project({".venv/lib/python3/site-packages/vendor_x/__init__.py": ""})
    monkeypatch.syspath_prepend(str(root / ".venv/lib/python3/site-packages"))
    assert unit_of("vendor_x") is None


def test_nothing_of_the_callers_gives_no_zip() -> None:
    """A function that needs nothing sends nothing."""
    assert ProjectCode().collect(["json", "builtins"]) == CodeArchive(b"", ())


# --- what travels ---


def test_a_module_beside_the_script_travels_alone(project: Project) -> None:
    """The directory around it does not: a script often stands among data."""
    project({"beside_a.py": "", "unrelated.py": "", "data.csv": "1,2"})
    assert names(ProjectCode().collect(["beside_a"])) == ["beside_a.py"]


def test_a_package_travels_whole(project: Project) -> None:
    """With its data files and all its modules, under the name that it is imported by."""
    project(
        {
            "whole_a/__init__.py": "",
            "whole_a/core/__init__.py": "",
            "whole_a/core/train.py": "",
            "whole_a/data/words.txt": "words",
            "setup.py": "",
        }
    )
    archive = ProjectCode().collect(["whole_a.core.train"])
    assert names(archive) == [
        "whole_a/__init__.py",
        "whole_a/core/__init__.py",
        "whole_a/core/train.py",
        "whole_a/data/words.txt",
    ]
    assert archive.modules == ("whole_a",)
    assert content(archive, "whole_a/data/words.txt") == b"words"


def test_what_is_no_part_of_a_package_is_left_out(project: Project) -> None:
    """Byte code, hidden files (.git, .env), node_modules and virtual environments inside it stay here."""
    project(
        {
            "clean_a/__init__.py": "",
            "clean_a/.env": "PASSWORD=1",
            "clean_a/.git/config": "",
            "clean_a/__pycache__/x.pyc": "",
            "clean_a/node_modules/m/index.js": "",
            "clean_a/env/pyvenv.cfg": "",
            "clean_a/env/lib/x.py": "",
        }
    )
    assert names(ProjectCode().collect(["clean_a"])) == ["clean_a/__init__.py"]


def test_imports_bring_in_further_modules(project: Project) -> None:
    """Import statements are followed: at the top, in functions, under conditions, and by a constant name."""
    project(
        {
            "chain_a.py": "import chain_b, json",
            "chain_b.py": "def f():\n    from chain_c import x",
            "chain_c.py": "try:\n    import chain_d.deep\nexcept ImportError:\n    pass",
            "chain_d/__init__.py": "import importlib\nimportlib.import_module('chain_e')",
            "chain_d/deep.py": "raise RuntimeError('imported while looking for imports')",
            "chain_e.py": "import chain_a  # a circle",
            "chain_unused.py": "",
        }
    )
    archive = ProjectCode().collect(["chain_a"])
    assert archive.modules == ("chain_a", "chain_b", "chain_c", "chain_d", "chain_e")
    assert not [name for name in sys.modules if name.startswith("chain_")]


def test_several_roots_are_merged(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A src layout and a directory of tools beside it come out as one directory."""
    project({"src/merge_a/__init__.py": "import merge_b", "tools/merge_b.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    monkeypatch.syspath_prepend(str(tmp_path / "tools"))
    assert names(ProjectCode().collect(["merge_a"])) == ["merge_a/__init__.py", "merge_b.py"]


def test_of_a_namespace_package_the_needed_parts_travel(project: Project) -> None:
    """Its directory belongs to many: only the regular packages and modules in it that are needed go."""
    project(
        {
            "space_a/used/__init__.py": "from ..beside import helper",
            "space_a/beside/helper.py": "",
            "space_a/beside/other.py": "",
            "space_a/unused/__init__.py": "",
        }
    )
    archive = ProjectCode().collect(["space_a.used"])
    assert names(archive) == ["space_a/beside/helper.py", "space_a/used/__init__.py"]
    assert archive.modules == ("space_a.beside.helper", "space_a.used")


def test_an_editable_install_by_path_file_travels(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .pth file puts the project's src directory on sys.path: that is all that counts."""
    root = project({"src/editable_a/__init__.py": "", "src/editable_a/py.typed": ""})
    monkeypatch.syspath_prepend(str(root / "src"))
    assert names(ProjectCode().collect(["editable_a"])) == ["editable_a/__init__.py", "editable_a/py.typed"]


def test_an_editable_install_by_import_hook_travels(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modern setuptools maps a package's name to any directory: it travels under its name."""
    root = project({"lib/__init__.py": "", "lib/inner.py": ""})

    class Finder:
        @classmethod
        def find_spec(
            cls, name: str, path: Sequence[str] | None = None, target: object = None
        ) -> importlib.machinery.ModuleSpec | None:
            if name != "hooked_a":
                return None
            return importlib.util.spec_from_file_location(
                name, root / "lib/__init__.py", submodule_search_locations=[str(root / "lib")]
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    expected = ["hooked_a/__init__.py", "hooked_a/inner.py"]
    assert names(ProjectCode().collect(["hooked_a.inner"])) == expected
    assert "hooked_a" not in sys.modules
    importlib.import_module("hooked_a.inner")
    assert names(ProjectCode().collect(["hooked_a.inner"])) == expected


def test_an_editable_install_by_link_travels(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link from site-packages to the project's package is the caller's own code."""
    project({"work/linked_a/__init__.py": ""})
    site = tmp_path / "lib/site-packages"
    site.mkdir(parents=True)
    (site / "linked_a").symlink_to(tmp_path / "work/linked_a")
    monkeypatch.syspath_prepend(str(site))
    assert names(ProjectCode().collect(["linked_a"])) == ["linked_a/__init__.py"]


def test_an_installed_package_of_linked_files_stays_here(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv and conda may link each file of an installed package into a cache: it is installed all the same."""
    project({"cache/init": ""})
    package = tmp_path / "lib/site-packages/cached_a"
    package.mkdir(parents=True)
    (package / "__init__.py").symlink_to(tmp_path / "cache/init")
    monkeypatch.syspath_prepend(str(package.parent))
    assert unit_of("cached_a") is None


def test_compiled_extensions_travel_under_their_full_suffix(project: Project) -> None:
    """Inside a package and alone: an extension's file name carries Python's version and the platform."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    project(
        {
            f"alone_x{suffix}": "binary",
            "with_x/__init__.py": "import alone_x",
            f"with_x/fast{suffix}": "binary",
        }
    )
    archive = ProjectCode().collect(["with_x"])
    assert names(archive) == [f"alone_x{suffix}", "with_x/__init__.py", f"with_x/fast{suffix}"]


def test_a_module_loaded_from_a_bare_file_travels_under_its_name(tmp_path: Path) -> None:
    """Test runners load files as modules that no search finds: the name they gave is the name it keeps."""
    write_files(tmp_path, {"somewhere/test_it.py": "X = 1"})
    for name in ("bare_t", "bare_t.unit", "bare_t.unit.test_it"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["bare_t.unit.test_it"].__file__ = str(tmp_path / "somewhere/test_it.py")
    try:
        assert names(ProjectCode().collect(["bare_t.unit.test_it"])) == ["bare_t/unit/test_it.py"]
        assert has_source("bare_t.unit.test_it")
        assert not has_source("bare_t.unit")
    finally:
        for name in ("bare_t", "bare_t.unit", "bare_t.unit.test_it"):
            del sys.modules[name]


def test_circular_links_end(project: Project, tmp_path: Path) -> None:
    """A link to a parent directory is followed once, not for ever."""
    project({"loop_a/__init__.py": ""})
    (tmp_path / "loop_a/again").symlink_to(tmp_path / "loop_a")
    assert names(ProjectCode().collect(["loop_a"])) == ["loop_a/__init__.py"]


def test_a_lazily_loaded_module_stays_unloaded(project: Project) -> None:
    """Looking where a module is does not trigger importlib's LazyLoader."""
    root = project({"lazy_a.py": "raise RuntimeError('loaded')"})
    spec = importlib.util.spec_from_file_location("lazy_a", root / "lazy_a.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["lazy_a"] = module
    spec.loader.exec_module(module)
    assert names(ProjectCode().collect(["lazy_a"])) == ["lazy_a.py"]
    assert type(module) is not types.ModuleType  # it would turn into one by loading
    del sys.modules["lazy_a"]


# --- the archive ---


def test_the_same_files_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    """Neither times nor the order of the file system show."""
    project({"same_a/__init__.py": "", "same_a/b.py": "x = 1"})
    first = ProjectCode().collect(["same_a"])
    os.utime(tmp_path / "same_a/b.py", (1, 1))
    assert ProjectCode().collect(["same_a"]) == first


def test_the_unpacked_archive_is_importable(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with its content on sys.path is all that the other side needs."""
    project({"out_a/__init__.py": "from .b import VALUE", "out_a/b.py": "VALUE = 7"})
    archive = ProjectCode().collect(["out_a"])
    for file in (tmp_path / "out_a").glob("*.py"):
        file.unlink()
    elsewhere = tmp_path / "elsewhere"
    write_files(elsewhere, {path: data.decode() for path, _, data in split_files(archive.data)})
    monkeypatch.syspath_prepend(str(elsewhere))
    importlib.invalidate_caches()
    assert importlib.import_module("out_a").VALUE == 7


def test_too_much_code_is_refused_with_the_largest_files(project: Project) -> None:
    """The error says how much, how much is allowed, which files, and what to do."""
    project({"large_a/__init__.py": "", "large_a/model.bin": "x" * 3000, "large_a/small.txt": "x"})
    with pytest.raises(SerializationError, match=r"large_a.model\.bin") as caught:
        ProjectCode(limit=2000).collect(["large_a"])
    message = str(caught.value)
    assert message.index("model.bin") < message.index("small.txt")
    assert "volume" in message


def test_unreadable_code_is_an_error_that_names_the_file(project: Project, tmp_path: Path) -> None:
    """A module that has become a link to itself is told by its name."""
    project({"broken_a/__init__.py": ""})
    (tmp_path / "broken_a/loop.py").symlink_to("loop.py")
    with pytest.raises(SerializationError, match=r"broken_a.loop\.py"):
        ProjectCode().collect(["broken_a"])


def test_unreadable_data_is_left_out_and_named(project: Project, tmp_path: Path) -> None:
    """A file without which Python can import the package costs no call."""
    project({"halfread_a/__init__.py": "", "halfread_a/data.txt": "x"})
    (tmp_path / "halfread_a/loop").symlink_to("loop")
    archive = ProjectCode().collect(["halfread_a"])
    assert names(archive) == ["halfread_a/__init__.py", "halfread_a/data.txt"]
    (note,) = archive.notes
    assert "halfread_a/loop is not sent" in note.text


def test_files_that_come_and_go_while_code_is_packed(project: Project, tmp_path: Path) -> None:
    """Lock files and the like, in any number, keep no call from being sent."""
    root = project({"churn_a/__init__.py": "", **{f"churn_a/data{n}.txt": "x" for n in range(30)}})
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(3):
                (root / f"churn_a/x{number}.lock").touch()
            for number in range(3):
                (root / f"churn_a/x{number}.lock").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        code = ProjectCode()
        for _ in range(200):
            assert "churn_a/data29.txt" in names(code.collect(["churn_a"]))
    finally:
        over.set()
        thread.join()


def test_data_that_vanishes_between_list_and_archive_is_named(project: Project, tmp_path: Path) -> None:
    """The archive holds the rest."""
    project({"melt_a/__init__.py": "", "melt_a/gone.txt": "x"})
    unit = unit_of("melt_a")
    assert unit is not None
    listing = list_files((unit,))
    (tmp_path / "melt_a/gone.txt").unlink()
    read, packed = read_files((unit,), listing)
    assert [path for path, _, _ in read] == ["melt_a/__init__.py"]
    assert [each.path for each in packed.left_out] == [str(tmp_path / "melt_a/gone.txt")]


def test_a_module_that_is_deleted_meanwhile_is_simply_gone(project: Project, tmp_path: Path) -> None:
    """The files are listed anew: what is sent is a state that the project really had."""
    project({"melt_b/__init__.py": "", "melt_b/gone.py": "", "melt_b/stays.py": ""})
    unit = unit_of("melt_b")
    assert unit is not None
    listing = list_files((unit,))
    (tmp_path / "melt_b/gone.py").unlink()
    read, _ = read_files((unit,), listing)
    assert [path for path, _, _ in read] == ["melt_b/__init__.py", "melt_b/stays.py"]


def test_a_module_that_is_edited_while_it_is_packed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is what was read for its imports; the next call sends the new state."""
    root = project({"race_a.py": "import race_b", "race_b.py": "", "race_c.py": ""})

    def edited(path: str) -> bytes | None:
        source = read_file(path)
        if path.endswith("race_a.py"):
            (root / "race_a.py").write_text("import race_c  # edited")
        return source

    code = ProjectCode()
    monkeypatch.setattr(collector, "read_file", edited)
    first = code.collect(["race_a"])
    monkeypatch.setattr(collector, "read_file", read_file)
    assert names(first) == ["race_a.py", "race_b.py"]
    assert content(first, "race_a.py") == b"import race_b"
    assert names(code.collect(["race_a"])) == ["race_a.py", "race_c.py"]


# --- what stays here, and is said ---


KEYS = (
    "id_rsa", "id_ed25519.old", "server.pem", "tls.KEY", "credentials.json", "aws_credentials", "kubeconfig",
    "prod.kubeconfig", "kubeconfig.yaml", "main.tfstate", "main.tfstate.backup", "prod.tfvars", "prod.env",
    "secrets.yaml", "client_secret_12.json", "service-account.json", "store.p12", "token.json", "passwords.txt",
    "_netrc",
)  # fmt: skip
NO_KEYS = (
    "tokenizer.json", "keys.txt", "environment.yml", "monkey.txt", "credentials.py", "secrets.py", "token.py",
    "author.txt", "pem.txt", "secretary.csv", "tokens.json", "environ.txt", "rsa.md", "passwordless.md",
)  # fmt: skip


def test_files_named_like_keys_stay_here_and_are_named(project: Project, tmp_path: Path) -> None:
    """Private keys, credentials, kubeconfigs, Terraform's state, .env files; source code always travels."""
    project({"keys_a/__init__.py": "", **{f"keys_a/conf/{name}": "x" for name in (*KEYS, *NO_KEYS)}})
    archive = ProjectCode().collect(["keys_a"])
    assert names(archive) == ["keys_a/__init__.py", *(f"keys_a/conf/{name}" for name in sorted(NO_KEYS))]
    (note,) = archive.notes
    assert "keys_a/conf/" in note.text
    assert f"and {len(KEYS) - 5} more" in note.text
    assert str(tmp_path / ".kubefuncignore") in note.text


def test_a_line_in_the_ignore_file_sends_a_key_all_the_same(project: Project) -> None:
    """``!name``, as in .gitignore; a line without ``!`` keeps things here, in silence."""
    root = project({"keys_b/__init__.py": "", "keys_b/ca.pem": "public", "keys_b/id_rsa": "x", "keys_b/big/x.bin": "x"})
    (root / ".kubefuncignore").write_text("# certificates of others\n!ca.pem\nbig/\nid_*\n")
    archive = ProjectCode().collect(["keys_b"])
    assert names(archive) == ["keys_b/__init__.py", "keys_b/ca.pem"]
    assert archive.notes == ()


def test_an_edited_ignore_file_holds_for_the_next_call(project: Project) -> None:
    """Nothing has to be restarted."""
    root = project({"keys_c/__init__.py": "", "keys_c/ca.pem": "", "keys_c/data.txt": ""})
    code = ProjectCode()
    assert names(code.collect(["keys_c"])) == ["keys_c/__init__.py", "keys_c/data.txt"]
    (root / "keys_c/.kubefuncignore").write_text("!*.pem\ndata.*")
    assert names(code.collect(["keys_c"])) == ["keys_c/__init__.py", "keys_c/ca.pem"]


def test_links_out_of_the_project_are_not_followed(project: Project, tmp_path: Path) -> None:
    """Data of others never travel by accident; links inside the project are followed as ever."""
    project(
        {
            "repo/.git/HEAD": "",
            "repo/.env": "PASSWORD=1",
            "repo/src/link_a/__init__.py": "",
            "repo/common/words.txt": "w",
        }
    )
    (tmp_path / "outside/data").mkdir(parents=True)
    (tmp_path / "outside/data/x.csv").write_text("1")
    package = tmp_path / "repo/src/link_a"
    links = {
        "file.csv": tmp_path / "outside/data/x.csv",
        "data": tmp_path / "outside/data",
        "env.txt": tmp_path / "repo/.env",
    }
    for name, target in links.items():
        (package / name).symlink_to(target)
    (package / "common").symlink_to(tmp_path / "repo/common")
    sys.path.insert(0, str(tmp_path / "repo/src"))
    try:
        archive = ProjectCode().collect(["link_a"])
    finally:
        sys.path.remove(str(tmp_path / "repo/src"))
    assert names(archive) == ["link_a/__init__.py", "link_a/common/words.txt"]
    (note,) = archive.notes
    for name, target in links.items():
        assert f"{package / name} -> {target}" in note.text


def test_code_travels_through_links(project: Project, tmp_path: Path) -> None:
    """Some build tools make a project of links; what is imported here is wanted there."""
    project({"linked_a/__init__.py": "", "linked_a/data.txt": "x"})
    (tmp_path.parent / "store/inner").mkdir(parents=True, exist_ok=True)
    (tmp_path.parent / "store/tool.py").write_text("TOOL = 1")
    (tmp_path.parent / "store/inner/__init__.py").write_text("")
    (tmp_path / "linked_a/tool.py").symlink_to(tmp_path.parent / "store/tool.py")
    (tmp_path / "linked_a/inner").symlink_to(tmp_path.parent / "store/inner")
    archive = ProjectCode().collect(["linked_a"])
    assert names(archive) == [
        "linked_a/__init__.py",
        "linked_a/data.txt",
        "linked_a/inner/__init__.py",
        "linked_a/tool.py",
    ]
    assert archive.notes == ()


def test_much_code_is_said_with_its_largest_files(project: Project) -> None:
    """From five megabytes on: it travels with each call."""
    root = project({"heavy_a/__init__.py": "", "heavy_a/small.txt": "x"})
    (root / "heavy_a/model.bin").write_bytes(b"x" * 4_999_999)
    (note,) = ProjectCode().collect(["heavy_a"]).notes
    assert "4.8 MiB of project code are sent with each call (heavy_a)" in note.text
    assert note.text.index("heavy_a/model.bin") < note.text.index("heavy_a/small.txt")
    assert ".kubefuncignore" in note.text
    (root / "heavy_a/model.bin").write_bytes(b"x" * 4_000_000)
    assert ProjectCode().collect(["heavy_a"]).notes == ()


# --- when it is packed ---


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the files of each archive that was packed."""
    seen: list[list[str]] = []

    def noted(files: Sequence[tuple[str, bool, bytes]], level: int) -> bytes:
        seen.append([path for path, _, _ in files])
        return join_files(files, level)

    monkeypatch.setattr(code_archive, "join_files", noted)
    return seen


def test_code_is_packed_when_it_is_sent(project: Project, packed: list[list[str]]) -> None:
    """And once. What is sent is what was there at the time of the call."""
    root = project({"late_a/__init__.py": "x = 1", "late_a/data.txt": "old"})
    archive = ProjectCode().collect(["late_a"])
    expected = {"late_a/__init__.py": (False, b"x = 1"), "late_a/data.txt": (False, b"old")}
    assert archive.files() == expected
    (root / "late_a/data.txt").write_text("new")
    assert packed == []
    assert content(archive, "late_a/data.txt") == b"old"
    assert archive.data is archive.data
    assert archive.files() == expected
    assert packed == [["late_a/__init__.py", "late_a/data.txt"]]


def test_much_code_is_packed_at_once(
    project: Project, packed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take up memory for as long as nobody needs it."""
    monkeypatch.setattr(collector, "HELD_UNPACKED", 10)
    project({"much_a.py": "x = 'more than ten bytes'"})
    ProjectCode().collect(["much_a"])
    assert packed == [["much_a.py"]]


# --- the second call ---


def test_an_unchanged_project_is_not_packed_again(project: Project) -> None:
    """The very same bytes object comes back."""
    project({"again_a/__init__.py": "import again_b", "again_b.py": ""})
    code = ProjectCode()
    assert code.collect(["again_a"]).data is code.collect(["again_a", "json"]).data


@pytest.mark.parametrize(
    "change",
    [
        {"change_a/__init__.py": "import change_b  # longer"},
        {"change_b.py": "import change_c"},
        {"change_a/new.txt": "data"},
        {"change_c.py": ""},
    ],
)
def test_every_change_shows(project: Project, change: dict[str, str]) -> None:
    """An edited file, a new import, a new data file, a module that was missing before."""
    project({"change_a/__init__.py": "import change_b", "change_b.py": "import change_c"})
    code = ProjectCode()
    before = code.collect(["change_a"])
    project(change)
    after = code.collect(["change_a"])
    assert after.data == ProjectCode().collect(["change_a"]).data
    if change != {"change_b.py": "import change_c"}:
        assert after != before


def test_a_module_that_is_loaded_from_elsewhere_now(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a module was found holds only as long as it is that module which is loaded."""
    project({"one/late_mod.py": "x = 1", "two/late_mod.py": "x = 2"})
    code = ProjectCode()
    for place in ("one", "two"):
        monkeypatch.syspath_prepend(str(tmp_path / place))
        sys.modules.pop("late_mod", None)
        importlib.import_module("late_mod")
        expected = b"x = 1" if place == "one" else b"x = 2"
        assert content(code.collect(["late_mod"]), "late_mod.py") == expected
    del sys.modules["late_mod"]
    sys.path.remove(str(tmp_path / "two"))
    assert content(code.collect(["late_mod"]), "late_mod.py") == b"x = 1"


def test_a_deleted_file_is_gone(project: Project, tmp_path: Path) -> None:
    """Also a whole module that an import still names."""
    project({"gone_a/__init__.py": "import gone_b", "gone_a/x.txt": "", "gone_b.py": ""})
    code = ProjectCode()
    code.collect(["gone_a"])
    (tmp_path / "gone_a/x.txt").unlink()
    (tmp_path / "gone_b.py").unlink()
    assert names(code.collect(["gone_a"])) == ["gone_a/__init__.py"]


def test_finished_archives_do_not_pile_up(project: Project) -> None:
    """Only the latest few are kept, however many different functions a session sends."""
    project({f"pile_{index}.py": "" for index in range(40)})
    code = ProjectCode()
    for index in range(40):
        code.collect([f"pile_{index}"])
    assert len(code._entries) <= 16


def test_many_names_are_found_as_each_of_them_is(project: Project, tmp_path: Path) -> None:
    """In whatever order they come: packages, namespaces, the standard library, what is nowhere or hidden."""
    project({"many_p/__init__.py": "", "many_p/inner.py": "", "many_n/sub/__init__.py": "", "many_n/one.py": ""})
    project({"many_m.py": "", "elsewhere/test_it.py": ""})
    spec = importlib.util.spec_from_file_location("many_h.unit.test_it", tmp_path / "elsewhere/test_it.py")
    assert spec is not None
    sys.modules["many_h.unit.test_it"] = importlib.util.module_from_spec(spec)
    found = [
        "many_p",
        "many_p.inner",
        "many_p.inner.name",
        "many_n",
        "many_n.sub",
        "many_n.sub.name",
        "many_n.one.name",
    ]
    found += ["many_n.nowhere", "many_m", "many_m.name", "many_h", "many_h.unit", "many_h.unit.test_it", "many_h.other"]
    found += [
        "json",
        "json.decoder",
        "os.path",
        "pytest",
        "pytest.raises",
        "nowhere",
        "nowhere.at.all",
        "kubefunc.handles.call",
    ]
    expected = {name: unit_of(name) for name in found}
    assert len({unit for unit in expected.values() if unit is not None}) == 5
    for seed in range(50):
        finder, order = UnitFinder(), random.Random(seed).sample(found, len(found))
        assert {name: finder.find(name) for name in order} == expected


# --- for a process on this machine ---


def test_locally_only_hidden_code_travels(project: Project, tmp_path: Path) -> None:
    """What the same sys.path finds is not sent; what was loaded from a bare file is."""
    project({"seen_a.py": "", "elsewhere/hidden_a.py": ""})
    spec = importlib.util.spec_from_file_location("hidden_a", tmp_path / "elsewhere/hidden_a.py")
    assert spec is not None
    sys.modules["hidden_a"] = importlib.util.module_from_spec(spec)
    importlib.import_module("seen_a")
    assert names(ProjectCode(is_hidden).collect(["seen_a", "hidden_a"])) == ["hidden_a.py"]


def test_a_file_that_shadows_by_another_path_is_hidden(project: Project, tmp_path: Path) -> None:
    """The same name found elsewhere is another module."""
    project({"twin_a.py": "", "elsewhere/twin_a.py": ""})
    spec = importlib.util.spec_from_file_location("twin_a", tmp_path / "elsewhere/twin_a.py")
    assert spec is not None
    sys.modules["twin_a"] = importlib.util.module_from_spec(spec)
    unit = unit_of("twin_a")
    assert unit is not None
    assert is_hidden(unit)


@pytest.mark.parametrize("name", ["/plugins/plug", "..x", "a..b"])
def test_a_module_under_a_name_that_none_can_have_is_refused(project: Project, tmp_path: Path, name: str) -> None:
    """Some loaders of plug-ins use paths as names: no file has that place below ``sys.path``."""
    project({"elsewhere/plug.py": ""})
    spec = importlib.util.spec_from_file_location(name, tmp_path / "elsewhere/plug.py")
    assert spec is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with pytest.raises(SerializationError, match=f"the module {name!r} .*plug.py.* cannot be imported elsewhere"):
            ProjectCode().collect([name])
    finally:
        del sys.modules[name]


# --- reading import statements ---


def imports_in_source(source: bytes, file: str) -> frozenset[str]:
    """What a file of this content and name imports."""
    return read_imports(source).names(package_of(file))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a, b.c as d; import e", {"a", "b.c", "e"}),
        ("from a.b import (c,\n  d as e)", {"a.b", "a.b.c", "a.b.d"}),
        ("from a import *", {"a"}),
        ("from . import x", {"app.core", "app.core.x"}),
        ("from .. import y", {"app", "app.y"}),
        ("from ...beyond import z", set()),
        ("if 0:\n  def f():\n    import inner", {"inner"}),
        ("try:\n  import a\nexcept E:\n  import b\nelse:\n  import c\nfinally:\n  import d", {"a", "b", "c", "d"}),
        ("for x in y:\n  with z:\n    import a\nelse:\n  import b\nf = lambda: x", {"a", "b"}),
        (
            "match x:\n  case 1:\n    import a\n  case _:\n    class C:\n      def f(self):\n        import b",
            {"a", "b"},
        ),
        (
            "__import__('q'); importlib.import_module('r.s'); import_module(name); import_module()",
            {"q", "r.s"},
        ),
        ("import_module('.relative', 'p'); import_module(5)", set()),
        (r"x = '\d \' \N{DIGIT ONE}'; y = b'\q'; import a", {"a"}),
        ("this is no python; import a", set()),
        ("\0", set()),
        ("", set()),
    ],
)
def test_import_statements_in_source(source: str, expected: set[str]) -> None:
    """All forms of import are understood; what is not Python has none; odd escapes do not even warn."""
    assert imports_in_source(source.encode(), "app/core/train.py") == expected


def test_import_statements_of_the_standard_library() -> None:
    """Expressions are not looked into where they can import nothing: what is found is what a full look finds."""
    for file in sorted(Path(os.__file__).parent.glob("*.py"))[:60]:
        source = file.read_bytes()
        whole = imports_in_source(source + b"\n__import__", file.name)
        assert imports_in_source(source, file.name) == whole, file


def test_import_statements_in_a_packages_init() -> None:
    """In an __init__ one dot is the package itself."""
    assert imports_in_source(b"from .a import b", "app/__init__.py") == {"app.a", "app.a.b"}


def test_imports_inside_a_function() -> None:
    """Lazy imports are found in the byte code: also in inner functions, and relative ones."""

    def outer() -> object:
        import json.decoder

        def inner() -> object:
            from os import path
            from os import sep as separator

            return path, separator

        return json, inner

    assert imports_in_code(outer.__code__, "") == {"json.decoder", "os", "os.path", "os.sep"}
    relative = compile("from ..b import c", "x", "exec")
    assert imports_in_code(relative, "app.core") == {"app.b", "app.b.c"}


def test_reading_imports_warns_of_nothing(project: Project, recwarn: pytest.WarningsRecorder) -> None:
    """The project's own odd escapes are not this library's business."""
    project({"odd_a.py": "import odd_b\nx = '\\d'", "odd_b.py": ""})
    assert ProjectCode().collect(["odd_a"]).modules == ("odd_a", "odd_b")
    assert not recwarn.list


def test_where_a_module_came_from() -> None:
    """Only what another process can import counts as having a source."""
    sys.modules["made_up"] = types.ModuleType("made_up")
    try:
        assert [has_source(name) for name in ("json", "sys", "pytest", "made_up", "__main__", "absent")] == [
            True,
            True,
            True,
            False,
            False,
            False,
        ]
    finally:
        del sys.modules["made_up"]
    assert has_source(cloudpickle.__name__)
    assert has_source(json.__name__)
