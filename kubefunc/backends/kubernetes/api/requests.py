"""HTTP to the API server: requests that are tried again where that can help, and streams.

One pool carries everything, plain requests, watches, logs and exec streams alike, and never holds more than
:data:`~kubefunc.backends.kubernetes.api.pool.CONNECTIONS` connections: that bounds what one session costs the API
server. Exec streams are upgraded on the pool's own connections, so that TLS, proxies and credentials are those of
every other request by construction.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlencode

from kubefunc.backends.kubernetes.api.errors import ApiError, ConnectionFailed, as_error
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig, find_config
from kubefunc.backends.kubernetes.api.patience import FIRST_CONTACT_PATIENCE, Patience
from kubefunc.backends.kubernetes.api.pool import (
    authorization,
    diagnose,
    load,
    new_pool,
    same_connections,
)
from kubefunc.backends.kubernetes.api.streams import Link, Stream, Websocket, split_lines
from kubefunc.errors import ConfigurationError

if TYPE_CHECKING:
    import urllib3

__all__ = ["Api", "ApiError", "ConnectionFailed", "JsonDict", "Reply", "as_error", "find_config"]

log = logging.getLogger("kubefunc.kubernetes.api")

JsonDict: TypeAlias = dict[str, Any]
Query: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
HEADER_LIFE = 5.0
# An API server that has just restarted answers 401 and 403 until it has read the roles and keys.
UNSETTLED = 10.0


@dataclass(frozen=True)
class Reply:
    """A successful answer.

    Attributes:
        status: the HTTP status.
        body: the JSON object, empty where the body was none.
        warnings: the texts of the ``Warning`` headers.
        attempts: how many times the request was sent; above 1, an earlier one may have been carried out
            unseen.
    """

    status: int
    body: JsonDict
    warnings: tuple[str, ...] = ()
    attempts: int = 1


@dataclass(frozen=True)
class _Raw:
    status: int
    data: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _Session:
    """One load of the credentials, and the pool that uses them."""

    configuration: Any
    pool: urllib3.PoolManager


@dataclass(frozen=True)
class _Header:
    """The Authorization header of one session, for a little while."""

    session: _Session | None
    until: float
    value: dict[str, str]

    def valid(self, session: _Session, now: float) -> bool:
        return self.session is session and now < self.until


class Api:
    """The API server of one context. Thread-safe; does nothing until the first request.

    Every method raises :class:`ApiError` (the server said no), :class:`ConnectionFailed` (it did not answer)
    or ConfigurationError (the kubeconfig's credentials cannot be used); :func:`as_error` turns all three into
    ours.

    Args:
        config: from :func:`find_config`.
        sleep, clock: for tests.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._closed = threading.Event()
        self._sleep = sleep or self._doze
        self._clock = clock
        self._lock = threading.Lock()
        self._opening = threading.local()
        self._links: set[Link] = set()
        self._current: _Session | None = None
        self._header = _Header(None, 0.0, {})
        self._contacted = False
        self._last_trouble = float("-inf")
        self._end_at = float("inf")

    def _doze(self, seconds: float) -> None:
        self._closed.wait(seconds)

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
        deadline: float = 60.0,
    ) -> Reply:
        """Send one request, again where that can help, and return the answer. A body of bytes is JSON already.

        429, 5xx and lost connections are tried again until `deadline` seconds have passed, all attempts
        together; a server that has never answered is given up after 10 s, or after three refusals. A 401
        reloads the credentials once. A POST may thus arrive twice: see ``attempts`` and
        :attr:`ApiError.already_exists`.
        """
        data = json.dumps(body, separators=(",", ":")).encode() if isinstance(body, dict) else body
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        raw, attempts = self._insist(method, _with_query(path, query), data, headers, deadline)
        return Reply(raw.status, _json_object(raw.data), _warnings(raw.headers), attempts)

    def read_bytes(self, path: str, *, query: Query | None = None, deadline: float = 60.0) -> bytes:
        """GET something that is not JSON, such as a log, with the same retries as :meth:`request`."""
        return self._insist("GET", _with_query(path, query), None, {"Accept": "*/*"}, deadline)[0].data

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
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], deadline: float
    ) -> tuple[_Raw, int]:
        import tenacity

        deadline = min(deadline, max(0.0, self._end_at - self._clock()))
        patience = Patience(deadline, self._clock, lambda: self._contacted, self._closed.is_set)
        retrying = tenacity.Retrying(
            sleep=self._sleep,
            stop=patience.stop,
            wait=patience.wait,
            retry=tenacity.retry_if_exception(self._worth_another_attempt),
            reraise=True,
        )
        attempts = 0

        def attempt() -> _Raw:
            nonlocal attempts
            attempts += 1
            return self._attempt(method, path, data, headers, patience.left())

        try:
            return retrying(attempt), attempts
        except (ApiError, ConnectionFailed) as exc:
            exc.attempts = attempts
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

    def _attempt(self, method: str, path: str, data: bytes | None, headers: dict[str, str], left: float) -> _Raw:
        session = self._session()
        raw = self._send(session, method, path, data, headers, left)
        if raw.status == 401:
            raw = self._send(self._reload(session), method, path, data, headers, left)
        if raw.status >= 300:
            raise _refusal(method, path, raw)
        return raw

    def _send(
        self,
        session: _Session,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        left: float,
    ) -> _Raw:
        left = max(left, 0.1)
        began = self._clock()
        response = self._urlopen(
            session, method, path, headers, data, (min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)), left
        )
        with self._translated(method, path):
            body = response.read()
            response.release_conn()
        # Never bodies, queries or headers: they hold payloads, programs and tokens.
        took = 1000 * (self._clock() - began)
        log.debug("%s %s: %d, %d bytes in %.0f ms", method, _without_query(path), response.status, len(body), took)
        return _Raw(response.status, body, response.headers)

    def _urlopen(
        self,
        session: _Session,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | None,
        timeouts: tuple[float, float],
        pool_timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and wait for the answer's headers."""
        import urllib3

        all_headers = {
            "Accept": "application/json",
            "User-Agent": "kubefunc",
            **self._auth(session),
            **headers,
        }
        with self._translated(method, path):
            response = session.pool.urlopen(
                method,
                self._host(session) + path,
                redirect=False,
                body=data,
                headers=all_headers,
                retries=False,
                timeout=urllib3.Timeout(connect=timeouts[0], read=timeouts[1]),
                preload_content=False,
                pool_timeout=pool_timeout,
            )
        self._contacted = True
        return response

    @contextlib.contextmanager
    def _translated(self, method: str, path: str) -> Generator[None]:
        """urllib3's errors, and those that it lets through, as ConnectionFailed."""
        import urllib3

        try:
            yield
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
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

    def _session(self) -> _Session:
        with self._lock:
            if self._current is None:
                self._current = self._new_session(load(self.config))
            return self._current

    def _reload(self, refused: _Session) -> _Session:
        """Fresh credentials, once for all the threads whose requests got a 401 with the same ones.

        A token given by a file or a plugin without `expirationTimestamp` is never renewed by
        kubernetes.config.
        """
        with self._lock:
            if self._current is not None and self._current is not refused:
                return self._current
            configuration = load(self.config)
            if same_connections(refused.configuration, configuration):
                self._current = _Session(configuration, refused.pool)
            else:
                refused.pool.clear()
                self._current = self._new_session(configuration)
            return self._current

    def _new_session(self, configuration: Any) -> _Session:
        try:
            return _Session(configuration, new_pool(configuration, self._announce))
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            raise ConfigurationError(
                f"The certificates of the context {self.config.context!r} in {self.config.source} cannot be used: {exc}"
            ) from exc

    def _auth(self, session: _Session) -> dict[str, str]:
        # auth_settings() runs refresh_api_key_hook each time; the hook renews an expired token in place (it
        # may run a credential plugin for seconds), which is not thread-safe; and it costs half a millisecond,
        # for it reads all of the environment. Tokens are renewed minutes before they expire.
        with self._lock:
            if self._header.valid(session, self._clock()):
                return self._header.value
            value = authorization(session.configuration, self.config)
            self._header = _Header(session, self._clock() + HEADER_LIFE, value)
            return value

    @staticmethod
    def _host(session: _Session) -> str:
        return str(session.configuration.host).rstrip("/")

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
            if response.status == 401:
                response.drain_conn()
                response.release_conn()
                response = self._link_response(self._reload(session), path, headers, idle_timeout)
        finally:
            self._opening.link = None
        if response.status == expected:
            return response
        with self._translated("GET", path):
            raw = _Raw(response.status, response.read(), response.headers)
            response.release_conn()
        raise _refusal("GET", path, raw)

    def _link_response(
        self, session: _Session, path: str, headers: Mapping[str, str], idle_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        timeouts = (CONNECT_TIMEOUT, idle_timeout)
        return self._urlopen(session, "GET", path, headers, None, timeouts, pool_timeout=FIRST_CONTACT_PATIENCE)

    def forget(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)


def _with_query(path: str, query: Query | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _without_query(path: str) -> str:
    return path.partition("?")[0]


def _json_object(data: bytes) -> JsonDict:
    if not data.startswith(b"{"):
        return {}
    try:
        return dict(json.loads(data))
    except ValueError:
        return {}


_WARNING = re.compile(r'\b\d{3} \S+ "((?:[^"\\]|\\.)*)"')


def _warnings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The texts of ``Warning: 299 - "text"`` headers; urllib3 joins several with commas."""
    return tuple(re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(headers.get("Warning") or ""))


def _refusal(method: str, path: str, raw: _Raw) -> ApiError:
    status = _json_object(raw.data)
    message = status.get("message") or raw.data[:2000].decode("utf-8", "replace").strip()
    details = status.get("details")
    return ApiError(
        method,
        path,
        raw.status,
        reason=str(status.get("reason") or ""),
        message=str(message),
        details=details if isinstance(details, dict) else None,
        retry_after=_seconds(raw.headers.get("Retry-After")),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
