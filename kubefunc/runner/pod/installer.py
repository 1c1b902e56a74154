"""Installs the packages of a call, once in each Pod, before the function is loaded.

They go into a virtual environment on a volume of the Pod: the image may be read-only and its user anybody. The
environment sees the image's own packages. With pip, a requirement that the image meets is not installed again; uv
does not look at them. The installer runs in a child of the supervisor, so that its output and its end are handled as
those of a function. The child reports one frame: ``P`` and JSON, either ``place``, the environment, or ``kind`` and
what is known of a failure.

On a volume that stays (``"cache": true``) environments are kept by what they were made from. Each is made in a
directory of its own, and becomes valid by one rename of a symbolic link. An flock keeps two Pods from making the
same one at the same time. Where a file system has no flock, both make it and the last one stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from kubefunc.runner import CODE_PACKAGES, ENV_POD_INDEX
from kubefunc.runner.execution import attempts
from kubefunc.runner.execution.packages import site_of
from kubefunc.runner.execution.process import OUTPUT_CHUNK, is_readable, kill_group
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from kubefunc.runner.execution.process import Child, Overseer

REPORT = b"P"
END_GRACE = 2.0  # seconds between SIGTERM and SIGKILL, when the Pod is ended meanwhile
TAIL = 8 * 1024  # bytes of the installer's output that an error carries
# An index that does not answer is given up after a minute: the installers' own limits add up to many.
_PIP = {
    "PIP_NO_INPUT": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_PROGRESS_BAR": "off",
    "PIP_RETRIES": "2",
    "PIP_DEFAULT_TIMEOUT": "15",
    "PIP_USER": "0",
}
_UV = {
    "UV_NO_CACHE": "1",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_HTTP_RETRIES": "2",
    "UV_HTTP_TIMEOUT": "15",
}
# Set in some images. They would lead the installer away from the environment.
_MISLEADING = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX")
_CREDENTIALS = re.compile(rb"://[^/\s@]+@")


class CannotInstall(Exception):
    """What stands in the way; ``detail`` is what the envelope says of it."""

    def __init__(self, kind: str, **detail: Any) -> None:
        super().__init__(kind)
        self.detail = {"kind": kind, **detail}


# --- in the supervisor


def install(
    overseer: Overseer, wanted: Mapping[str, Any], fork: Callable[[Callable[[int], None]], Child], volume: str
) -> tuple[str, dict[str, Any] | None]:
    """Install what a spec asks for.

    Args:
        overseer: passes the installer's output on, unless this is a further Pod of a map.
        wanted: what is to be installed.
        fork: forks a child of this process that runs a function, given the descriptor for its frames.
        volume: the directory for the environment.

    Returns:
        where the packages are, and the header of the error; None if they are there, or SIGTERM has come
        (``overseer.ending``).
    """
    run = _Run(overseer, fork(lambda frames: _report(frames, wanted, volume)), wanted["seconds"])
    try:
        status = run.watch()
    finally:
        kill_group(run.process.pid, signal.SIGKILL)
        run.process.close()
    if run.report is not None and "place" in run.report:
        return str(run.report["place"]), None
    return "", None if overseer.ending else attempts.error_header(CODE_PACKAGES, run.failure(status))


class _Run:
    """The installer's process, watched to its end."""

    def __init__(self, overseer: Overseer, process: Child, seconds: float) -> None:
        self.overseer = overseer
        self.process = process
        self.seconds = seconds
        self.report: dict[str, Any] | None = None
        self.timed_out = False
        # A hundred Pods of a map print the same: one of them is enough.
        self._is_quiet = os.environ.get(ENV_POD_INDEX, "0") != "0"
        self._frames = wire.Frames()
        self._pipes = [process.frames, process.output]
        self._line = b""
        self._tail = bytearray()

    def watch(self) -> int:
        """Until it has ended; its wait status."""
        overseer, process = self.overseer, self.process
        clock = attempts.Clock()
        clock.set("timeout", self.seconds)
        status: int | None = None
        while status is None:
            if clock.is_over():
                self.timed_out = not overseer.ending
                kill_group(process.pid, signal.SIGKILL)
                clock.stop()
            ready = overseer.wait(self._pipes, clock.left())
            self._read([pipe for pipe in self._pipes if pipe in ready])
            if overseer.asked_to_end(ready):
                kill_group(process.pid, signal.SIGTERM)
                clock.set("end", END_GRACE)
            status = overseer.reap(process.pid)
        while rest := [pipe for pipe in self._pipes if is_readable(pipe)]:
            self._read(rest)
        self._pass_on(b"\n" if self._line else b"")
        return status

    def failure(self, status: int) -> dict[str, Any]:
        """What the envelope says of it."""
        detail = dict(self.report or {"kind": "died", "status": status})
        if self.timed_out:
            detail["kind"] = "timeout"
        elif detail.get("signal") == signal.SIGKILL or self.overseer.out_of_memory(status):
            detail["kind"] = "killed"
        return {**detail, "seconds": self.seconds, "output": bytes(self._tail).decode(errors="replace")}

    def _read(self, pipes: Sequence[int]) -> None:
        for pipe in pipes:
            data = os.read(pipe, OUTPUT_CHUNK)
            if not data:
                self._pipes.remove(pipe)
            elif pipe == self.process.output:
                self._pass_on(data)
            else:
                for _, content in self._frames.feed(data):
                    self.report = json.loads(content)

    def _pass_on(self, data: bytes) -> None:
        """Whole lines: a password in a URL may stand at the edge of two reads."""
        whole, end, self._line = (self._line + data).rpartition(b"\n")
        shown = without_credentials(whole + end)
        self._tail = (self._tail + shown)[-TAIL:]
        if not self._is_quiet:
            self.overseer.pass_on(shown)


def without_credentials(text: bytes) -> bytes:
    """The text with the user and password of each URL hidden, as pip and uv do it in most places.

    >>> without_credentials(b"Looking in https://ada:secret@pypi.example/simple")
    b'Looking in https://****@pypi.example/simple'
    """
    return _CREDENTIALS.sub(b"://****@", text)


# --- in its child


def _report(frames: int, wanted: Mapping[str, Any], volume: str) -> None:
    found: dict[str, Any]
    try:
        found = {"place": _place(wanted, volume)}
    except CannotInstall as error:
        found = error.detail
    except ImportError as error:  # a Python without the module venv
        found = {"kind": "none", "message": str(error)}
    except OSError as error:
        message = error.strerror or str(error)
        found = {"kind": "volume", "path": error.filename or volume, "message": message, "errno": error.errno}
    sys.stdout.flush()
    wire.write_all(frames, wire.frame(REPORT, json.dumps(found).encode()))


def _place(wanted: Mapping[str, Any], volume: str) -> str:
    """The environment with the packages: the one of the cache, or one that is made now."""
    if not wanted.get("cache"):
        return _made(wanted, os.path.join(volume, "environment"))
    link = os.path.join(volume, cache_key(wanted))
    with open(f"{link}.lock", "ab") as lock:
        is_alone = _lock(lock.fileno())
        if os.path.exists(link):
            title = wanted["title"] or wanted["sent"]["title"]
            print(f"kubefunc: packages found in the cache: {title}", flush=True)
            return os.path.realpath(link)
        if is_alone:  # a Pod that was killed has left them
            _remove_unfinished(volume, os.path.basename(link))
        place = _made(wanted, f"{link}.{os.urandom(4).hex()}")
        os.symlink(os.path.basename(place), f"{place}.link")
        os.replace(f"{place}.link", link)
        return place


def cache_key(wanted: Mapping[str, Any]) -> str:
    """The name of an environment: what was asked for, where from, and what it was made on.

    It sees the packages of the image, and may rely on them: another image has another environment.
    """
    import platform
    from importlib import metadata

    present = sorted(f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions())
    made_of = [
        *(sorted(wanted["requirements"]), sorted(wanted["constraints"]), (wanted.get("sent") or {}).get("digest")),
        without_credentials(wanted["index"].encode()).decode(),
        *(sys.version, sys.base_prefix, platform.machine(), platform.libc_ver(), present),
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def _remove_unfinished(volume: str, key: str) -> None:
    for name in os.listdir(volume):
        if name.startswith(f"{key}.") and not name.endswith(".lock"):
            shutil.rmtree(os.path.join(volume, name), ignore_errors=True)


def _lock(file: int) -> bool:
    """Whether it is ours, until this process ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("kubefunc: waiting for another Pod that installs the same packages", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # no flock on this file system
        return False
    return True


def _made(wanted: Mapping[str, Any], place: str) -> str:
    started = time.monotonic()
    sent = wanted.get("sent")
    if sent is not None and not fits_here(sent):
        wanted, sent = {**wanted, "requirements": sent["pinned"], "why": _why_unfit(sent)}, None
    try:
        _make_environment(place)
        if sent is not None:
            print(f"kubefunc: unpacking packages: {sent['title']}", flush=True)
            unpack(wanted["archive"], site_of(place))
        if wanted["requirements"]:
            _run(wanted, place)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    size = size_of(place) / 2**20
    print(f"kubefunc: packages installed in {time.monotonic() - started:.1f} s, {size:,.1f} MiB", flush=True)
    return place


def installer(place: str, why: str) -> tuple[str, list[str]]:
    """The name of the installer that this image has, and the command that installs into an environment.

    Args:
        place: of the environment.
        why: packages of the caller's machine are installed, for people.

    Raises:
        CannotInstall: it has none.
    """
    import importlib.util

    python = f"{place}/bin/python3"
    uv = shutil.which("uv")
    if uv is not None:
        return "uv", [uv, "pip", "install", "--python", python]
    if importlib.util.find_spec("pip") is None:
        raise CannotInstall("none", why=why)
    return "pip", [python, "-m", "pip", "install"]


def _make_environment(place: str) -> None:
    import site
    import venv

    venv.EnvBuilder(system_site_packages=True, symlinks=True, clear=True).create(place)
    if sys.prefix != sys.base_prefix:  # the image's Python is in an environment itself
        with open(os.path.join(site_of(place), "kubefunc_image.pth"), "w") as file:
            file.writelines(f"{directory}\n" for directory in site.getsitepackages())


def fits_here(sent: Mapping[str, Any]) -> bool:
    """Whether compiled packages from another machine work with this processor and C library."""
    import platform

    if sent["glibc"] is None:
        return True
    name, version = platform.libc_ver()
    here = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return name == "glibc" and platform.machine() == sent["machine"] and here >= list(sent["glibc"])


def _why_unfit(sent: Mapping[str, Any]) -> str:
    import platform

    system = " ".join([platform.machine(), *filter(None, platform.libc_ver())])
    needed = f"{sent['machine']} glibc {'.'.join(map(str, sent['glibc']))}"
    return f"those of your machine need {needed}, and the Pod has {system}"


def unpack(archive: str, directory: str) -> None:
    """Put the files of an archive below a directory, as the archive is read. It is removed: the disk has both."""
    import gzip
    import tarfile

    with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r|") as members:
        for member in members:
            path = os.path.join(directory, member.name)
            file = members.extractfile(member)
            if file is None or ".." in member.name.split("/"):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as target:
                shutil.copyfileobj(file, target, 1 << 20)
            os.chmod(path, member.mode)
    os.unlink(archive)


def _run(wanted: Mapping[str, Any], place: str) -> None:
    name, command = installer(place, wanted["why"])
    title = wanted["title"] or ", ".join(wanted["requirements"])
    why = f" ({wanted['why']})" if wanted["why"] else ""
    print(f"kubefunc: installing packages with {name}: {title}{why}", flush=True)
    scratch = f"{place}/tmp"  # on the same volume: what is unpacked there need not be copied
    os.mkdir(scratch)
    files = [*_file(scratch, "-r", wanted["requirements"]), *_file(scratch, "-c", wanted["constraints"])]
    more = ["--require-hashes"] if wanted["hashes"] else []
    environment = installer_environment(os.environ, wanted["index"], scratch)
    # Not in the image's working directory, from which "-m" would import.
    done = subprocess.run([*command, *more, *files], env=environment, cwd=scratch)
    if done.returncode:
        how = {"signal": -done.returncode} if done.returncode < 0 else {"exit_code": done.returncode}
        raise CannotInstall("failed", installer=name, **how)
    shutil.rmtree(scratch, ignore_errors=True)


def _file(directory: str, option: str, lines: Sequence[str]) -> list[str]:
    """A file for the installer. Its URLs may hold passwords."""
    if not lines:
        return []
    name = {"-r": "requirements.txt", "-c": "constraints.txt"}[option]
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return [option, name]


def installer_environment(environ: Any, index: str, scratch: str) -> dict[str, str]:
    """The variables of the installer. What the image or ``env=`` sets stays, such as a proxy or a mirror."""
    kept = {name: value for name, value in environ.items() if name not in _MISLEADING}
    given = {**_PIP, **_UV, **kept, "TMPDIR": scratch, "PIP_USER": "0"}
    if index:
        given.update(PIP_INDEX_URL=index, UV_INDEX_URL=index, UV_DEFAULT_INDEX=index)
    if index.startswith("http://"):  # the user has said so
        host = index.removeprefix("http://").rpartition("@")[2].partition("/")[0]
        given["PIP_TRUSTED_HOST"] = f"{given.get('PIP_TRUSTED_HOST', '')} {host}".strip()
    return given


def size_of(place: str) -> int:
    """Bytes of all files below a directory."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_size for directory, _, names in os.walk(place) for name in names
    )
