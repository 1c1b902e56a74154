"""What an exec stream can come to. Each class is one reason that a caller acts on."""

from __future__ import annotations


class TransportError(Exception):
    """An exec stream did not do what it was opened for."""


class ExecRefused(TransportError):
    """The credentials lack ``pods/exec`` (get and create)."""


class ExecUnavailable(TransportError):
    """The Pod or its container is absent or not running, or the kubelet cannot be reached."""


class StreamCut(TransportError):
    """The stream ended before everything had come."""


class StreamSilent(TransportError):
    """Nothing came for too long."""


class StreamClosed(TransportError):
    """``close()`` was called."""


class StreamGarbled(TransportError):
    """The far end does not follow the protocol."""


class StreamTooLarge(StreamGarbled):
    """More comes than this client takes."""


class ExecFailed(TransportError):
    """The command ended with an exit code other than 0.

    Attributes:
        exit_code: of the command.
        stderr: what it wrote there, at most the first 64 KiB.
    """

    def __init__(self, exit_code: int, stderr: bytes) -> None:
        super().__init__(f"the command exited with {exit_code}: {stderr.decode('utf-8', 'replace').strip()}")
        self.exit_code = exit_code
        self.stderr = stderr
