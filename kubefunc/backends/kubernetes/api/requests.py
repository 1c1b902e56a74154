"""HTTP to the API server: requests that are tried again where that can help, and streams.

One pool carries everything, plain requests, watches, logs and exec streams alike, and never holds more than
:data:`~kubefunc.backends.kubernetes.api.pool.CONNECTIONS` connections: that bounds what one session costs the API
server. Exec streams are upgraded on the pool's own connections, so that TLS, proxies and credentials are those of
every other request by construction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.client
import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlencode

from kubefunc import __version__
from kubefunc.backends.kubernetes.api import answers
from kubefunc.backends.kubernetes.api.answers import Answer, Check, UnreadableAnswer, is_any
from kubefunc.backends.kubernetes.api.errors import ApiError, ConnectionFailed, as_error
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig, find_config
from kubefunc.backends.kubernetes.api.patience import FIRST_CONTACT_PATIENCE, Patience, failure_of
from kubefunc.backends.kubernetes.api.pool import (
    CONNECTIONS,
    Session,
    authorization,
    diagnose,
    open_session,
    same_connections,
)
from kubefunc.backends.kubernetes.api.streams import Link, Stream, Websocket, split_lines

if TYPE_CHECKING:
    import urllib3

__all__ = ["Api", "ApiError", "ConnectionFailed", "JsonDict", "Query", "Reply", "as_error", "find_config"]

log = logging.getLogger("kubefunc.kubernetes.api")

JsonDict: TypeAlias = dict[str, Any]
Query: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
T = TypeVar("T")
OnRetry: TypeAlias = Callable[[BaseException | None], None]

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
HEADER_LIFE = 5.0
# An API server that has just restarted answers 401 and 403 until it has read the roles and keys.
UNSETTLED = 10.0
# Else the server sends back all that it was sent, the runner and the payload among it, twice a call.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"


@dataclass(frozen=True)
class Reply:
    """A successful answer.

    Attributes:
        status: the HTTP status.
        body: the JSON object.
        warnings: the texts of the ``Warning`` headers.
        date: when it was sent, by the server's clock; None where it does not say.
        attempts: how many times the request was sent; above 1, an earlier one may have been carried out
            unseen.
    """

    status: int
    body: JsonDict
    warnings: tuple[str, ...] = ()
    date: datetime.datetime | None = None
    attempts: int = 1


@dataclass(frozen=True)
class _Sent:
    """One request, as every attempt sends it."""

    method: Method
    path: str
    headers: Mapping[str, str]
    body: bytes | None = None


@dataclass(frozen=True)
class _Header:
    """The Authorization header of one session, for a little while."""

    session: Session | None
    until: float
    value: dict[str, str]

    def valid(self, session: Session, now: float) -> bool:
        return self.session is session and now < self.until


class Api:
    """The API server of one context. Thread-safe; does nothing until the first request.

    Every method raises :class:`ApiError` (the server said no), :class:`ConnectionFailed` (it did not answer),
    ConfigurationError or AuthenticationError (the kubeconfig's credentials cannot be used); :func:`as_error`
    turns all of them into ours.

    Args:
        config: from :func:`find_config`.
        sleep, clock: for tests.
        connections: how many there are at once, at most.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        connections: int = CONNECTIONS,
    ) -> None:
        def doze(seconds: float) -> None:
            self._closed.wait(seconds)

        self.config = config
        self._connections = connections
        self._closed = threading.Event()
        self._sleep = sleep or doze
        self._clock = clock
        self._lock = threading.RLock()
        self._opening = threading.local()
        self._links: set[Link] = set()
        self._current: Session | None = None
        self._header = _Header(None, 0.0, {})
        self._contacted = False
        self._last_trouble = float("-inf")
        self._end_at = float("inf")

    def hurry(self, seconds: float) -> None:
        """Of requests that begin from now on, give up those that have no answer by then: the program ends."""
        self._end_at = self._clock() + seconds

    def request(
        self,
        method: Method,
        path: str,
        *,
        query: Query | None = None,
        body: JsonDict | bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        is_expected: Check = is_any,
        deadline: float = 60.0,
        on_retry: OnRetry | None = None,
    ) -> Reply:
        """Send one request, again where that can help, and return the answer. A body of bytes is JSON already.

        429, 5xx and lost connections are tried again until `deadline` seconds have passed, all attempts
        together; a server that has never answered is given up after 10 s, or after three refusals. A 401
        reloads the credentials once, a 403 as system:anonymous too. A POST may thus arrive twice: see ``attempts`` and
        :attr:`ApiError.already_exists`.

        `on_retry` is told of each failure that another attempt follows.

        A success that is not a JSON object, or not `is_expected`, counts as a lost connection: something between
        here and the API server has cut the answer, or answered in its place.
        """
        data = json.dumps(body, separators=(",", ":")).encode() if isinstance(body, dict) else body
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        sent = _Sent(method, _with_query(path, query), headers, data)

        def read(answer: Answer) -> Reply:
            found = answers.read_object(answer, is_expected)
            return Reply(answer.status, found, answers.warnings(answer.headers), answers.date(answer.headers))

        reply, attempts = self._insist(sent, read, deadline, on_retry)
        return dataclasses.replace(reply, attempts=attempts)

    def read_bytes(self, path: str, *, query: Query | None = None, deadline: float = 60.0) -> bytes:
        """GET something that is not JSON, such as a log, with the same retries as :meth:`request`."""
        return self._insist(_Sent("GET", _with_query(path, query), {"Accept": "*/*"}), answers.read_text, deadline)[0]

    def stream_lines(self, path: str, query: Query, *, idle_timeout: float = 90.0) -> Stream:
        """A GET whose answer is read line by line as it arrives (a watch)."""
        return Stream(self, _with_query(path, query), "application/json", idle_timeout, split_lines)

    def stream_bytes(self, path: str, query: Query, *, idle_timeout: float = 90.0) -> Stream:
        """A GET whose answer is read as it arrives (a log that is followed)."""
        return Stream(self, _with_query(path, query), "*/*", idle_timeout, lambda pieces: pieces)

    def websocket(self, path: str, query: Query, subprotocols: Sequence[str], *, timeout: float = 30.0) -> Websocket:
        """A connection that is upgraded to a websocket when opened (exec)."""
        return Websocket(self, _with_query(path, query), subprotocols, timeout)

    def close(self) -> None:
        """End all streams, stop trying again, close idle connections. A later request is sent only once."""
        self._closed.set()
        with self._lock:
            links, session = list(self._links), self._current
        for link in links:
            link.close()
        if session is not None:
            session.pool.clear()

    # -- one request, several attempts

    def _insist(
        self, sent: _Sent, read: Callable[[Answer], T], deadline: float, on_retry: OnRetry | None = None
    ) -> tuple[T, int]:
        import tenacity

        deadline = min(deadline, max(0.0, self._end_at - self._clock()))
        patience = Patience(deadline, self._clock, lambda: self._contacted, self._closed.is_set)
        retrying = tenacity.Retrying(
            sleep=self._sleep,
            stop=patience.stop,
            wait=patience.wait,
            retry=tenacity.retry_if_exception(self._worth_another_attempt),
            before_sleep=None if on_retry is None else lambda state: on_retry(failure_of(state)),
            reraise=True,
        )
        attempts, arrived = 0, False

        def attempt() -> T:
            nonlocal attempts, arrived
            attempts += 1
            try:
                return self._attempt(sent, read, patience.left())
            except ConnectionFailed as exc:
                arrived = arrived or exc.was_sent
                raise
            except ApiError as exc:
                arrived = arrived or exc.status >= 500
                raise

        try:
            return retrying(attempt), attempts
        except (ApiError, ConnectionFailed) as exc:
            exc.count(attempts, maybe_carried_out=arrived)
            raise

    @property
    def settled(self) -> bool:
        """Whether its refusals are to be believed: no connection was lost just now, as in a restart."""
        return self._clock() - self._last_trouble >= UNSETTLED

    def _worth_another_attempt(self, exc: BaseException) -> bool:
        if isinstance(exc, ConnectionFailed):
            return not exc.final
        if not isinstance(exc, ApiError):
            return False
        unsettled = self._contacted and not self.settled
        return exc.overloaded or (unsettled and (exc.status == 401 or exc.denied_by_role))

    def _attempt(self, sent: _Sent, read: Callable[[Answer], T], left: float) -> T:
        session = self._session()
        answer = self._send(session, sent, left)
        if answers.is_unauthenticated(answer):
            answer = self._send(self._reload(session), sent, left)
        with self._translated(sent.method, sent.path):
            if not 200 <= answer.status < 300:
                raise self._refusal(sent.method, sent.path, answer)
            result = read(answer)
        self._contacted = True
        return result

    def _refusal(self, method: str, path: str, answer: Answer) -> ApiError:
        refused = answers.refusal(method, path, answer)
        self._contacted = self._contacted or refused.is_status
        return refused

    def _send(self, session: Session, sent: _Sent, left: float) -> Answer:
        left = max(left, 0.1)
        timeouts = (min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left))
        began = self._clock()
        response = self._urlopen(session, sent, timeouts, left)
        with self._translated(sent.method, sent.path):
            body = response.read()
            response.release_conn()
        # Never bodies, queries or headers: they hold payloads, programs and tokens.
        took, path = 1000 * (self._clock() - began), _without_query(sent.path)
        log.debug("%s %s: %d, %d bytes in %.0f ms", sent.method, path, response.status, len(body), took)
        return Answer(response.status, body, response.headers)

    def _urlopen(
        self, session: Session, sent: _Sent, timeouts: tuple[float, float], pool_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and wait for the answer's headers."""
        import urllib3

        all_headers = {
            "Accept": "application/json",
            "User-Agent": f"kubefunc/{__version__}",
            **self._auth(session),
            **sent.headers,
        }
        with self._translated(sent.method, sent.path):
            return session.pool.urlopen(
                sent.method,
                _host(session) + sent.path,
                redirect=False,
                body=sent.body,
                headers=all_headers,
                retries=False,
                timeout=urllib3.Timeout(connect=timeouts[0], read=timeouts[1]),
                preload_content=False,
                pool_timeout=pool_timeout,
            )

    @contextlib.contextmanager
    def _translated(self, method: str, path: str) -> Generator[None]:
        """urllib3's errors, those that it lets through, and unreadable answers, as ConnectionFailed."""
        import urllib3

        try:
            yield
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, UnreadableAnswer) as exc:
            raise self.failure(method, path, exc) from exc

    def failure(self, method: str, path: str, exc: Exception) -> ConnectionFailed:
        reason, final = diagnose(exc)
        self._last_trouble = self._clock()
        log.debug("%s %s: no answer (%s: %s)", method, _without_query(path), reason, type(exc).__name__)
        return ConnectionFailed(
            method,
            path,
            host=self.config.host,
            context=self.config.context,
            reason=reason,
            message=str(exc) or type(exc).__name__,
            final=final,
        )

    # -- credentials

    def _session(self) -> Session:
        with self._lock:
            if self._current is None:
                self._current = open_session(self.config, self._announce, self._connections)
            return self._current

    def _reload(self, refused: Session) -> Session:
        """Fresh credentials, once for all the threads whose requests got a 401 with the same ones.

        A token given by a file or a plugin without `expirationTimestamp` is never renewed by
        kubernetes.config.
        """
        with self._lock:
            if self._current is not None and self._current is not refused:
                return self._current
            fresh = open_session(self.config, self._announce, self._connections)
            if same_connections(refused, fresh):
                fresh = dataclasses.replace(fresh, pool=refused.pool)
            else:
                refused.pool.clear()
            self._current = fresh
            return fresh

    def _auth(self, session: Session) -> dict[str, str]:
        # auth_settings() runs refresh_api_key_hook each time; the hook renews an expired token in place (it
        # may run a credential plugin for seconds), which is not thread-safe; and it costs half a millisecond,
        # for it reads all of the environment. Tokens are renewed minutes before they expire.
        with self._lock:
            if self._header.valid(session, self._clock()):
                return self._header.value
            value = authorization(session, self.config)
            self._header = _Header(session, self._clock() + HEADER_LIFE, value)
            return value

    # -- streams

    def _announce(self, wire: object) -> None:
        """A connection of this thread has sent its request and now waits for the answer."""
        link: Link | None = getattr(self._opening, "link", None)
        if link is not None:
            link.adopt(wire)

    def open_link(
        self, link: Link, path: str, headers: Mapping[str, str], idle_timeout: float, expected: int
    ) -> urllib3.BaseHTTPResponse:
        with self._lock:
            self._links.add(link)
        self._opening.link = link
        try:
            session = self._session()
            response = self._link_response(session, path, headers, idle_timeout)
            if response.status in (401, 403):
                refused = self._whole(response, path)
                if not answers.is_unauthenticated(refused):
                    raise self._refusal("GET", path, refused)
                response = self._link_response(self._reload(session), path, headers, idle_timeout)
        finally:
            self._opening.link = None
        opened = Answer(response.status, b"", response.headers)
        if response.status == expected and not opened.is_html:
            self._contacted = True
            return response
        answer = self._whole(response, path)
        with self._translated("GET", path):
            raise self._refusal("GET", path, answer)

    def _whole(self, response: urllib3.BaseHTTPResponse, path: str) -> Answer:
        with self._translated("GET", path):
            data = response.read()
            response.release_conn()
        return Answer(response.status, data, response.headers)

    def _link_response(
        self, session: Session, path: str, headers: Mapping[str, str], idle_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        timeouts = (CONNECT_TIMEOUT, idle_timeout)
        return self._urlopen(session, _Sent("GET", path, headers), timeouts, pool_timeout=FIRST_CONTACT_PATIENCE)

    def forget(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)


def _with_query(path: str, query: Query | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _without_query(path: str) -> str:
    return path.partition("?")[0]


def _host(session: Session) -> str:
    return str(session.configuration.host).rstrip("/")
