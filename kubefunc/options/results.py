"""How a result comes back, what is shown meanwhile, and what stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias, TypedDict

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Kind, Refused, none
from kubefunc.options.option import DURATION, SWITCH, Group, Unset, option
from kubefunc.options.parsers import names, numbers
from kubefunc.options.references import ConfigMapKey, SecretKey
from kubefunc.runner import FETCH_GRACE, RESULT_TTL

if TYPE_CHECKING:
    from datetime import timedelta

Keep: TypeAlias = Literal["failed", "always", "never"]
OnSigterm: TypeAlias = Literal["leave", "cancel"]


class ResultsChanges(TypedDict, total=False):
    """What these options accept."""

    detach: bool | Unset
    on_sigterm: OnSigterm | Unset
    verbose: bool | Unset
    progress: bool | Unset
    logging: bool | Unset
    express: bool | Unset
    inline: bool | Unset
    results_in_log: bool | Unset
    fetch_grace: float | timedelta | Unset
    result_ttl: float | timedelta | Unset | None
    ttl: float | timedelta | Unset
    keep: Keep | Unset
    publish: ConfigMapKey | SecretKey | Unset | None
    stream_ahead: int | Unset


def _destination(value: object) -> ConfigMapKey | SecretKey:
    if isinstance(value, (ConfigMapKey, SecretKey)):
        return value
    hint = f": ConfigMapKey({value!r}, 'result')" if isinstance(value, str) and "'" not in value else ""
    raise Refused(f"name the object and the key{hint or ' with ConfigMapKey(name, key) or SecretKey(name, key)'}")


def _no_text(text: str) -> NoReturn:
    raise Refused("where to publish can be set in Python only, with @remote or .options()")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Results(Group):
    """How a result comes back, what is shown meanwhile, and what stays."""

    detach: bool = option(False, SWITCH)
    """Let the Job continue when this process ends. :func:`kubefunc.attach` gets its result later.

    Default: False, the end of the process cancels calls that are not done.
    Local: an error, since no call on this machine outlives the process.
    """

    on_sigterm: OnSigterm = option("leave", Kind("'leave' or 'cancel'", names.one_of("leave", "cancel")))
    """What becomes of an unfinished call when SIGTERM ends this program: ``leave`` or ``cancel``.

    A handler of the program's own replaces both. ``cancel`` may take 5 s; a detached call goes on in any case.

    Default: ``leave``, its Job goes on, and a line on ``sys.stderr`` says so.
    Local: obeyed; with ``leave`` the function's process is ended, as nothing there outlives the client.
    """

    verbose: bool = option(True, SWITCH)
    """Show what the function prints, and what the call waits for, on ``sys.stderr``.

    Default: True.
    Local: obeyed.
    """

    progress: bool = option(True, SWITCH)
    """Show the progress of a map on ``sys.stderr`` while the program waits for it.

    On a terminal and in a notebook it is one line that changes, elsewhere a new line every 30 s.

    Default: True.
    Local: obeyed.
    """

    logging: bool = option(True, SWITCH)
    """Set up ``logging`` in the function as in your program: level and format of the root logger.

    Log messages appear on ``sys.stderr``.

    Default: True, if the root logger has a handler when you make the call.
    Local: obeyed.
    """

    express: bool = option(True, SWITCH)
    """Fetch the result by exec as soon as it exists, instead of waiting for the Pod's status.

    Default: True, which saves half a second. Set False if security tools raise an alarm for each exec.
    Local: ignored.
    """

    inline: bool = option(True, SWITCH)
    """Send a small result in the Pod's status. Users who may read Pods can read it.

    Default: True, since it needs no further request.
    Local: ignored.
    """

    results_in_log: bool = option(True, SWITCH)
    """Write a result that nobody fetched to the log of the courier, where a log pipeline may collect it.

    Default: True, so that results up to 4 MiB remain when their Pod ends.
    Local: ignored.
    """

    fetch_grace: float = option(FETCH_GRACE, DURATION)
    """How long a result waits in its Pod before it is written to the log. Unit: seconds.

    Default: 60, for a client that is away for a short time. The Pod keeps its CPU and GPU for so long.
    Local: ignored.
    """

    result_ttl: float | None = option(
        None, Kind("seconds or a timedelta, 0 or more, or None", numbers.seconds, numbers.read_seconds, none)
    )
    """How long a result that is too large for the log (above 4 MiB) waits in its Pod. Unit: seconds.

    Default: None, which means ``ttl`` with ``detach=True``, else 600. The Pod keeps its CPU, memory and GPU.
    Local: ignored.
    """

    ttl: float = option(24 * 3600.0, DURATION)
    """How long a finished Job stays, for kubectl or ``attach``. Unit: seconds, rounded up.

    Default: 24 h. ``keep`` says which Jobs stay. Jobs of detached calls always do.
    Local: ignored.
    """

    keep: Keep = option("failed", Kind("'failed', 'always' or 'never'", names.one_of("failed", "always", "never")))
    """Which finished Jobs stay for ``ttl``, to be looked at with kubectl: ``failed``, ``always`` or ``never``.

    Such a Job has ended and uses no CPU and no memory. It uses objects in the namespace (a Job, its Pods, its Secrets
    with the arguments) and the Pods' logs on their nodes. Jobs of cancelled calls, and Jobs whose function has not
    started, are always deleted. Jobs of detached calls always stay.

    Default: ``failed``, the Jobs of calls that failed and of maps in which an item failed.
    Local: ignored.
    """

    publish: ConfigMapKey | SecretKey | None = option(
        None, Kind("ConfigMapKey(name, key), SecretKey(name, key) or None", _destination, _no_text, none)
    )
    """Where the result is written when the function has returned: a key of a ConfigMap or Secret.

    A text or bytes are written as they are, all else as JSON, at most 1 MiB. The object is created, or the key is set
    in the one that exists. ``result()`` returns when it is written; if it cannot be, it raises PublishError, which has
    the value. It cannot be set from the environment, and not for maps or an Executor.

    Default: None.
    Local: nothing is written, a line says so. What cannot be written raises the same error.
    """

    stream_ahead: int = option(
        100, Kind("an int from 1 to 100000", numbers.whole_number(1, 100_000), numbers.read_whole_number)
    )
    """How many values a generator function may be ahead of the program that takes them.

    A generator that is so far ahead waits at its ``yield``. It also waits when values of 64 MiB wait to be taken.

    Default: 100.
    Local: obeyed.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        to = self.publish
        if to is not None and to.owned and not self.detach and self.keep != "always":
            raise ConfigurationError(
                f"publish={type(to).__name__}({to.name!r}, {to.key!r}, owned=True) is deleted with the call's Job, and "
                f"keep={self.keep!r} deletes the Job as soon as the call has succeeded. Set keep='always' (the Job and "
                "the object stay for ttl=), or leave owned out"
            )

    @property
    def result_wait(self) -> float:
        """How long a result that is too large for the log waits in its Pod, in seconds."""
        if self.result_ttl is not None:
            return self.result_ttl
        return self.ttl if self.detach else RESULT_TTL
