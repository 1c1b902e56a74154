"""``publish=``: write a call's result into a ConfigMap or Secret before the caller gets it.

The handle is done when the result is written: who has the value can rely on the object being there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Final

from kubefunc.backends.base import Work
from kubefunc.envelope import Raised, Returned, Unread
from kubefunc.errors import ConfigurationError, KubefuncError, PublishError
from kubefunc.options import ConfigMapKey, SecretKey
from kubefunc.runner.execution.exceptions import text_of
from kubefunc.session import Session

Destination = ConfigMapKey | SecretKey
LIMIT: Final = 1024**2


class Publication:
    """What is to be done with the result of one call."""

    def __init__(self, of: Session, destination: Callable[[Work], Destination | None]) -> None:
        """``destination``: asked of the call's work when the function has returned; None: it is not published."""
        self._session = of
        self._destination = destination
        self._submitted = threading.Event()
        self._work: Work | None = None
        self._finished = threading.Event()

    def submitted(self, work: Work) -> None:
        """The call is on its way."""
        self._work = work
        self._submitted.set()

    def finish(
        self,
        ended: Returned | Raised | Unread,
        load: Callable[[], Returned | Raised],
        done: Callable[[Returned | Raised | Unread], None],
    ) -> None:
        """Publish a value, in the background, and then pass it on. What the function raised is passed on at once."""
        if isinstance(ended, Raised) or (isinstance(ended, Unread) and not ended.is_value):
            done(ended)
            return

        def work() -> None:
            try:
                done(self._published(load()))
            finally:
                self._finished.set()

        self._session.wait_at_exit(self)
        try:
            threading.Thread(target=work, name="kubefunc-publish", daemon=True).start()
        except RuntimeError:  # the interpreter exits, and starts no thread
            work()

    def _published(self, ended: Returned | Raised) -> Returned | Raised:
        if isinstance(ended, Raised):
            return ended
        try:
            self._write(ended.value)
        except PublishError as error:
            return Raised(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must get the value
            return Raised(_failed(f"{type(error).__name__}: {text_of(error)}", ended.value, error))
        return ended

    def _write(self, value: object) -> None:
        self._submitted.wait()
        to = self._asked_destination()
        if self._work is None or to is None:
            return
        where = f"publish={to!r}"
        content = content_of(value, where)
        try:
            if not self._work.publish(to, content):
                self._session.say_once(where, f"{where}: nothing is written, as no cluster runs the call")
        except KubefuncError as error:
            raise _failed(f"{where}: {error}", value, error) from error

    def _asked_destination(self) -> Destination | None:
        """Of an attached call, the cluster must be asked. Most have none: that it cannot say so costs no result."""
        try:
            return None if self._work is None else self._destination(self._work)
        except KubefuncError as error:
            self._session.console.say(f"whether the result is to be published cannot be found out: {error}")
            return None

    # -- for the session, at exit

    def end(self) -> None:
        """It ends by itself."""

    def wait(self) -> None:
        """Until it is written."""
        self._finished.wait()


def content_of(value: object, where: str) -> str | bytes:
    """What is written for a value: a text or bytes as they are, all else as JSON.

    >>> content_of({"loss": 0.5}, "publish=...")
    '{"loss": 0.5}'

    Raises:
        PublishError: it is none of these, or larger than 1 MiB.
    """
    content = value if isinstance(value, (str, bytes)) else _as_json(value, where)
    try:
        size = len(content.encode()) if isinstance(content, str) else len(content)
    except UnicodeEncodeError as error:
        raise _failed(f"{where}: the text cannot be written as UTF-8 ({error})", value, error) from None
    if size > LIMIT:
        raise _failed(
            f"{where}: the result has {size:,} bytes, and Kubernetes keeps at most 1 MiB (1,048,576 bytes) in a "
            "ConfigMap or Secret. Write it to a volume (volumes=), and publish its path",
            value,
            None,
        )
    return content


def _as_json(value: object, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _failed(
            f"{where}: the function returned {type(value).__name__}, which is not a text, bytes, or what JSON can hold "
            f"({text_of(error)}). Return str, bytes, or numbers, texts, lists and dicts",
            value,
            error,
        ) from None


def _failed(why: str, value: object, cause: BaseException | None) -> PublishError:
    error = PublishError(
        f"The function returned, but its result was not published. {why.rstrip('.')}. "
        "The result is in this error's attribute value.",
        value=value,
        diagnosis=getattr(cause, "diagnosis", None),
    )
    error.__cause__ = cause if isinstance(cause, KubefuncError) else None
    return error


def refuse_many(where: str, to: Destination | None) -> None:
    """Refuse ``publish=`` for what has more than one result.

    Raises:
        ConfigurationError: it is set.
    """
    if to is not None:
        raise ConfigurationError(
            f"{where}: publish={to!r} is for one call: the results here would overwrite each other. Remove it with "
            ".options(publish=None), and publish what a last call makes of the results."
        )
