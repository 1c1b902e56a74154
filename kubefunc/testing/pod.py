"""A Pod of the small cluster: its containers are processes of this machine, its volumes are directories."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

Json = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"  # label and annotation of the Pods of an Indexed Job
MESSAGE_MOST = 4096  # bytes of a termination message that the kubelet reads
LOG_EVERY = 0.05  # seconds between two looks at a log that grows
_ANNOTATION = re.compile(r"metadata\.annotations\['(.+)'\]")
_VARIABLES = {"/kubefunc/in": "KUBEFUNC_IN", "/kubefunc/out": "KUBEFUNC_OUT", "/tmp": "TMPDIR"}


class Container:
    """A process with a log and a termination message.

    Attributes:
        name: of the container.
        environ: its variables.
        exit_code: once it has ended.
        message: what it left as its termination message.
    """

    def __init__(self, name: str, command: list[str], environ: dict[str, str], directory: Path) -> None:
        self.name = name
        self.environ = {**environ, "KUBEFUNC_TERMINATION_LOG": str(directory / f"{name}.message")}
        self.exit_code: int | None = None
        self.message = ""
        self._command = command
        self._log = directory / f"{name}.log"
        self._message = directory / f"{name}.message"
        self._message.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start it, and return when it has ended."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self.environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        code = self._process.wait()
        self.message = self._message.read_bytes()[:MESSAGE_MOST].decode("utf-8", "replace")
        self.exit_code = code if code >= 0 else 128 - code

    def end(self, sign: signal.Signals) -> None:
        """Send a signal to it and all its processes."""
        if self._process is not None and self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, sign)

    def log(self, *, follows: bool) -> Iterator[bytes]:
        """What it has printed; with ``follows`` until its end."""
        while not self._log.exists() and follows:
            time.sleep(LOG_EVERY)
        with self._log.open("rb") as log:
            while True:
                has_ended = self.exit_code is not None
                data = log.read()
                if data:
                    yield data
                elif has_ended or not follows:
                    return
                else:
                    time.sleep(LOG_EVERY)

    def execute(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Run a command beside it, as exec does."""
        return subprocess.Popen(
            command,
            env=self.environ,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    def status(self) -> Json:
        """As the kubelet reports it."""
        state: Json = {"running": {}}
        if self.exit_code is not None:
            reason = "Completed" if self.exit_code == 0 else "Error"
            state = {"terminated": {"exitCode": self.exit_code, "reason": reason, "message": self.message}}
        return {"name": self.name, "image": "this-machine", "restartCount": 0, "ready": True, "state": state}


class PodProcesses:
    """The containers of a Pod.

    Attributes:
        containers: by name.
    """

    def __init__(self, pod: Json, secret: Callable[[str], Json | None], directory: Path) -> None:
        """``secret`` gives the Secret of this name."""
        self._pod = pod
        self._secret = secret
        self._volumes = {each["name"]: self._volume(each, directory) for each in pod["spec"].get("volumes", ())}
        self.containers = {each["name"]: self._container(each, directory) for each in pod["spec"]["containers"]}

    def run(self, changed: Callable[[], None]) -> None:
        """Start all containers, and return when all have ended. Tells of each end."""

        def run(container: Container) -> None:
            container.run()
            changed()

        threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in self.containers.values()]
        for thread in threads:
            thread.start()
        changed()
        for thread in threads:
            thread.join()

    def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to all containers."""
        for container in self.containers.values():
            container.end(sign)

    def status(self) -> Json:
        """As the kubelet reports it."""
        codes = [each.exit_code for each in self.containers.values()]
        phase = "Running"
        if None not in codes:
            phase = "Failed" if any(codes) else "Succeeded"
        return {"phase": phase, "containerStatuses": [each.status() for each in self.containers.values()]}

    def command(self, container: str, command: list[str]) -> list[str]:
        """A command with this machine's Python and directories."""
        paths = self._paths(container)
        python = [sys.executable] if re.fullmatch(r"python3?(\.\d+)?", command[0]) else command[:1]
        return python + [_moved(each, paths) for each in command[1:]]

    def _paths(self, container: str) -> dict[str, str]:
        (spec,) = [each for each in self._pod["spec"]["containers"] if each["name"] == container]
        return {each["mountPath"]: str(self._volumes[each["name"]]) for each in spec.get("volumeMounts", ())}

    def _container(self, spec: Json, directory: Path) -> Container:
        name, paths = spec["name"], self._paths(spec["name"])
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        environ |= {"HOSTNAME": self._pod["metadata"]["name"]}
        index = self._pod["metadata"]["labels"].get(INDEX)
        environ |= {} if index is None else {"JOB_COMPLETION_INDEX": index}
        environ |= {variable: paths[path] for path, variable in _VARIABLES.items() if path in paths}
        for each in spec.get("env", ()):
            environ[each["name"]] = _moved(self._value(each), paths)
        return Container(name, self.command(name, [*spec["command"], *spec.get("args", ())]), environ, directory)

    def _value(self, variable: Json) -> str:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            return self._content(reference["name"]).get(reference["key"], b"").decode()
        path = source.get("fieldRef", {}).get("fieldPath", "")
        annotation = _ANNOTATION.fullmatch(path)
        metadata: Mapping[str, Any] = self._pod["metadata"]
        if annotation:
            return str(metadata.get("annotations", {}).get(annotation[1], ""))
        known = {"metadata.name": metadata["name"], "metadata.namespace": metadata["namespace"]}
        known |= {"spec.nodeName": "this-machine", "status.podIP": "127.0.0.1"}
        return str(variable.get("value", known.get(path, "")))

    def _volume(self, volume: Json, directory: Path) -> Path:
        place = Path(directory, "volumes", volume["name"])
        place.mkdir(parents=True)
        sources = [*volume.get("projected", {}).get("sources", ()), volume]
        for source in [each["secret"] for each in sources if "secret" in each]:
            content = self._content(source.get("name") or source["secretName"])
            items = source.get("items") or [{"key": key, "path": key} for key in content]
            for item in items:
                (place / item["path"]).write_bytes(content[item["key"]])
        return place

    def _content(self, name: str) -> dict[str, bytes]:
        secret = self._secret(name) or {}
        return {key: base64.b64decode(value) for key, value in secret.get("data", {}).items()}


def _moved(text: str, paths: Mapping[str, str]) -> str:
    """The text with paths in volumes as they are on this machine.

    >>> _moved("import sys; sys.path.insert(0, '/in/a.pyz')", {"/in": "/here/in"})
    "import sys; sys.path.insert(0, '/here/in/a.pyz')"
    """
    if not paths:
        return text
    longest_first = sorted(paths, key=len, reverse=True)
    known = re.compile(rf"(?<![\w/.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])")
    return known.sub(lambda match: paths[match[1]], text)


def read_all(stream: IO[bytes] | None, take: Callable[[bytes], None]) -> None:
    """Hand on what comes, piece by piece, to the end."""
    while stream is not None and (data := stream.read(1 << 16)):
        take(data)
