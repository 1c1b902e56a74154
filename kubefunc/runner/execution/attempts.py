"""What all attempts of a call share: how long things may take, and how failures are reported."""

from __future__ import annotations

import hashlib
import os
import signal
import time

from kubefunc.runner import CODE_TIMEOUT, ERROR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from kubefunc.runner.protocol.spec import RunnerSpec

EXIT_GRACE = 10.0  # for the function's atexit handlers, once its result is written
STACKS_GRACE = 0.3  # faulthandler writes the stacks at the timeout; then the process is killed
STACKS_LATE = 20  # tenths of a second more, where a busy node has not let faulthandler come to it yet
STACKS_LIMIT = 20_000  # characters
NESTED_GRACE = 6.0  # for a function that has timed out to cancel its own calls; an exit takes 5 s at most
FOREVER = float("inf")
SHORT = 200  # characters
DO_NOT_RETRY = "kubefunc.errors.DoNotRetry"


class Clock:
    """When the child is to be killed, and why: at most one such time is set."""

    def __init__(self) -> None:
        self.at = FOREVER
        self.why = ""
        self.patience = 0

    def set(self, why: str, seconds: float) -> None:
        if self.why != "end":  # who was asked to end gets no more time for anything else
            self.at, self.why = time.monotonic() + seconds, why
            self.patience = STACKS_LATE

    def waits_for(self, stacks: str) -> bool:
        """Whether a timeout goes on for a tenth of a second, as this file has no stacks yet."""
        if self.why != "timeout" or self.patience == 0 or _is_written(stacks):
            return False
        self.patience -= 1
        self.at = time.monotonic() + 0.1
        return True

    def next_signal(self, *, nested: bool) -> int:
        """The signal for a process whose time is over. SIGKILL; but one that has made calls may cancel these first."""
        if self.why == "timeout" and nested:
            self.set("stop", NESTED_GRACE)
            return signal.SIGTERM
        self.stop()
        return signal.SIGKILL

    def stop(self) -> None:
        self.at = FOREVER

    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())

    def is_over(self) -> bool:
        return time.monotonic() >= self.at

    def timeout_has_come(self) -> bool:
        """Whether the timeout is over, if perhaps not yet the time for the stacks.

        A process that dies then, dies of it: faulthandler may crash while it writes the stacks of a running thread.
        """
        return self.why == "timeout" and self.left() <= STACKS_GRACE


def has_streamed(spec: RunnerSpec, directory: str) -> bool:
    """Whether values of a generator function went to this directory: it is not run again, as none may come twice."""
    return spec.stream is not None and os.path.exists(directory)


def may_retry(error: BaseException, kinds: Any) -> bool:
    """Whether an attempt that ended so is followed by another: an exception of these kinds, and not a DoNotRetry."""
    try:
        return isinstance(error, kinds) and not _says_final(error)
    except BaseException:  # by the class of the one or the other
        return False


def _says_final(error: BaseException) -> bool:
    """Whether it is a DoNotRetry, or was raised ``from`` one, directly or through further exceptions."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        # By name: most functions never import kubefunc.errors, and who raises this has it loaded already.
        if any(f"{cls.__module__}.{cls.__qualname__}" == DO_NOT_RETRY for cls in type(link).__mro__):
            return True
        seen.add(id(link))
        link = link.__cause__
    return False


def back_off(backoff: Sequence[float], attempt: int) -> float:
    """Seconds to wait after this attempt: more each time, and not the same for all calls that failed together."""
    import random  # the first attempt does not wait for it

    initial, factor, maximum = backoff
    return float(min(maximum, initial * factor ** min(attempt - 1, 100)) * random.uniform(0.5, 1.0))


def announcement(call: str, retries: int, attempt: int, header: dict[str, Any], index: int | None = None) -> str:
    """The line that says why a call, or an item of a map, is tried again after this attempt.

    >>> announcement("train-x7k2p9qa", 2, 1, {"error": "ValueError: no such station"})
    'train-x7k2p9qa: attempt 2 of 3 after ValueError: no such station'
    """
    what = call if index is None else f"{call}[{index}]"
    return f"{what}: attempt {attempt + 1} of {retries + 1} after {reason(header)}"


def reason(header: Mapping[str, Any]) -> str:
    """Why an attempt failed, in a few words, by the header of its outcome."""
    detail = header.get("detail", {})
    if header.get("code") == CODE_TIMEOUT:
        return f"its timeout of {detail['timeout']:g} s"
    if "signal" in detail:
        return f"its process was killed by signal {detail['signal']}"
    if "exit_code" in detail:
        return f"its process ended with exit code {detail['exit_code']}"
    return str(header.get("error", "an exception"))


def short(text: str) -> str:
    """The first line of an exception's text, for an announcement."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= SHORT else f"{first[:SHORT]}..."


def _is_written(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


def read_stacks(path: str) -> str:
    """What faulthandler wrote there at the timeout."""
    try:
        with open(path, errors="replace") as file:
            return "\n".join(without_runner(file.read(STACKS_LIMIT).splitlines()))
    except FileNotFoundError:
        return ""


def without_runner(lines: Iterable[str]) -> Iterator[str]:
    """These lines of output, but for what faulthandler says of this program: its frames stand below the function's.

    >>> list(without_runner(['Thread 1:', '  File "f.py", line 3 in f', '  File "kubefunc/runner/execution/child.py"']))
    ['Thread 1:', '  File "f.py", line 3 in f']
    """
    ours = False
    for line in lines:
        is_frame = line.startswith('  File "')
        ours = is_frame and (ours or "kubefunc/runner/" in line)
        if not ours:
            yield line


def error_header(code: str, detail: dict[str, Any]) -> dict[str, Any]:
    """The header of an error that travels as a code, with an empty body."""
    return {"outcome": ERROR, "code": code, "detail": detail, "size": 0, "sha256": hashlib.sha256().hexdigest()}
