"""Container images without a registry: made of Debian packages, kept as archives for containerd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.cluster import needs
from tests.cluster.cache import cached

PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
# Each Debian release carries one Python.
DEBIAN_OF_PYTHON: Mapping[str, str] = {"3.11": "bookworm", "3.13": "trixie"}
_PAUSE_SOURCE = Path(__file__).parent / "pause.c"
_DIST_PACKAGES = "usr/lib/python3/dist-packages"
_PACKAGES = "python3,ca-certificates"
_DROPPED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def python_image_name(python: str) -> str:
    """The name under which kubefunc looks for the image of a Python minor version, such as ``"3.11"``."""
    return f"docker.io/library/python:{python}-slim"


def python_image(python: str) -> Path:
    """The archive of an image with that Python minor; made on first use (a minute, needs the network)."""
    if python not in DEBIAN_OF_PYTHON:
        known = ", ".join(DEBIAN_OF_PYTHON)
        raise ValueError(f"no image of Python {python!r} can be made here, only of {known}")
    release = DEBIAN_OF_PYTHON[python]
    recipe = json.dumps([python_image_name(python), release, _PACKAGES, _DROPPED, _python_config(), "1"])

    def make(directory: Path) -> None:
        _make_python(directory, python, release)

    return cached(f"python-{python}", [recipe.encode()], make) / "image.tar"


def pause_image() -> Path:
    """The archive of the image that every Pod's sandbox runs."""
    return cached("pause", [_PAUSE_SOURCE.read_bytes(), PAUSE_IMAGE.encode()], _make_pause) / "image.tar"


def image_with(distributions: Sequence[str], python: str) -> tuple[str, Path]:
    """Name and archive of the image of that Python with these distributions and what they require.

    As they are installed here, with the programs in them (such as uv), but without scripts, which name this machine's
    Python. So ``python`` must be the minor version that runs this: a second layer over the stock image, made without
    the network.
    """
    found = _with_requirements(distributions)
    versions = [f"{each.metadata['Name']}=={each.version}" for each in found]
    base = python_image(python)
    parts = [json.dumps([versions, python, "2"]).encode(), str(base).encode()]
    name = f"test.local/python-with:{hashlib.sha256(parts[0]).hexdigest()[:12]}"

    def make(directory: Path) -> None:
        _copy_distributions(found, directory / "root" / _DIST_PACKAGES)
        _copy_programs(found, directory / "root" / "usr/bin")
        with tarfile.open(base) as archive:
            archive.extract("layer.tar", directory, filter="data")
        (directory / "layer.tar").rename(directory / "below.tar")
        _pack(directory, name, _python_config(), below=("below.tar",))
        shutil.rmtree(directory / "root")

    return name, cached(f"python-{python}-with", parts, make) / "image.tar"


def _with_requirements(names: Sequence[str]) -> list[metadata.Distribution]:
    """These distributions and those that they require, without extras."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return [found[name] for name in sorted(found)]


def _copy_distributions(distributions: Sequence[metadata.Distribution], to: Path) -> None:
    for each in distributions:
        for file in each.files or ():
            if ".." not in file.parts and "tests" not in file.parts:  # commands; and nobody runs those tests there
                target = to / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # compiled files come and go
                    shutil.copyfile(file.locate(), target)


def _copy_programs(distributions: Sequence[metadata.Distribution], to: Path) -> None:
    to.mkdir(parents=True)
    for each in distributions:
        for file in each.files or ():
            source = Path(str(file.locate())).resolve()
            if file.parts[-2:-1] == ("bin",) and ".." in file.parts and source.read_bytes()[:4] == b"\x7fELF":
                shutil.copy(source, to)


def _python_config() -> dict[str, object]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"Cmd": ["python3"], "Env": [f"PATH={path}", "LANG=C.UTF-8"]}


def _make_python(directory: Path, python: str, release: str) -> None:
    needs.require(needs.TO_MAKE_PYTHON_IMAGES)
    root = directory / "root"
    _debootstrap(root, release)
    (root / "usr/bin/python").symlink_to("python3")
    for path in _DROPPED:
        shutil.rmtree(root / path, ignore_errors=True)
    found = subprocess.run(["chroot", str(root), "python3", "-V"], check=True, capture_output=True, text=True)
    if not found.stdout.startswith(f"Python {python}."):
        raise RuntimeError(f"Debian {release} has {found.stdout.strip()!r}, expected Python {python}")
    _pack(directory, python_image_name(python), _python_config())
    shutil.rmtree(root)


def _debootstrap(root: Path, release: str) -> None:
    # In namespaces of its own: the /proc it mounts in the new root, and whatever it starts, go with it.
    enclosed: Sequence[str] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(root)]
    log = root.with_name("debootstrap.log")
    with open(log, "wb") as output:
        done = subprocess.run(
            [*enclosed, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": needs.search_path(), "LC_ALL": "C.UTF-8"},
        )
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError("\n".join([f"debootstrap {release} failed with {done.returncode}:", *lines]))


def _make_pause(directory: Path) -> None:
    needs.require(needs.TO_MAKE_PAUSE)
    root = directory / "root"
    root.mkdir()
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", str(root / "pause"), str(_PAUSE_SOURCE)], check=True)
    _pack(directory, PAUSE_IMAGE, {"Entrypoint": ["/pause"]})
    shutil.rmtree(root)


def _pack(directory: Path, name: str, config: Mapping[str, object], below: Sequence[str] = ()) -> None:
    """Write ``image.tar`` (the docker-archive format) from the tree at ``root``, over the layers ``below``."""
    layer = directory / "layer.tar"
    tree = str(directory / "root")
    subprocess.run(["tar", "--numeric-owner", "-C", tree, "-cf", str(layer), "."], check=True)
    layers = [*below, "layer.tar"]
    description = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(directory / each)}" for each in layers]},
    }
    (directory / "config.json").write_text(json.dumps(description))
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": layers}]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(directory / "image.tar", "w") as archive:
        for part in ("manifest.json", "config.json", *layers):
            archive.add(directory / part, arcname=part)
            (directory / part).unlink()


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
