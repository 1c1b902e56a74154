"""HTTP to the API server: the only module that imports `kubernetes` and tenacity, when first used.

`kubernetes` does what it does well: it reads a kubeconfig or the in-cluster files, runs credential plugins,
and builds an urllib3 pool with the right certificates and proxies. Everything else goes around it. Its typed
models cost ten times what `json.loads` does, its `Watch` cannot recover from a 410 (KeyError 'raw_object'),
and its `stream()` swaps a method on a client that others are using (client-python#928). So: raw requests on
that pool, raw dicts out.

One pool carries everything, plain requests, watches, logs and exec streams alike, and never holds more than
:data:`CONNECTIONS` connections: that bounds what one session costs the API server. Exec streams are upgraded
on the pool's own connections, so that TLS, proxies and credentials are those of every other request by
construction.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlencode

from kubefunc.backends.kubernetes.kubeconfig import IN_CLUSTER, ClusterConfig, find_config
from kubefunc.backends.kubernetes.refusals import ApiError, ConnectionFailed, as_error, quota_is_hopeless
from kubefunc.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType

    import tenacity
    import urllib3
    from typing_extensions import Self

__all__ = [
    "Api",
    "ApiError",
    "ClusterConfig",
    "ConnectionFailed",
    "JsonDict",
    "Query",
    "Reply",
    "Stream",
    "Websocket",
    "as_error",
    "find_config",
    "quota_is_hopeless",
]

JsonDict: TypeAlias = dict[str, Any]
Query: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

CONNECTIONS = 40
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
FIRST_CONTACT_PATIENCE = 10.0
FIRST_CONTACT_ATTEMPTS = 3
RETRY_AFTER_CAP = 30.0
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
        self._links: set[_Link] = set()
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
        patience = _Patience(deadline, self._clock, lambda: self._contacted, self._closed.is_set)
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
        response = self._urlopen(
            session, method, path, headers, data, (min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)), left
        )
        with self._translated(method, path):
            body = response.read()
            response.release_conn()
        return _Raw(response.status, body, response.headers)

    def _urlopen(
        self,
        session: _Session,
        method: str,
        path: str,
        headers: dict[str, str],
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
            raise self._failure(method, path, exc) from exc

    def _failure(self, method: str, path: str, exc: Exception) -> ConnectionFailed:
        reason, final = _diagnose(exc)
        self._last_trouble = self._clock()
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
                self._current = self._new_session(_load(self.config))
            return self._current

    def _reload(self, refused: _Session) -> _Session:
        """Fresh credentials, once for all the threads whose requests got a 401 with the same ones.

        A token given by a file or a plugin without `expirationTimestamp` is never renewed by
        kubernetes.config.
        """
        with self._lock:
            if self._current is not None and self._current is not refused:
                return self._current
            configuration = _load(self.config)
            if _same_connections(refused.configuration, configuration):
                self._current = _Session(configuration, refused.pool)
            else:
                refused.pool.clear()
                self._current = self._new_session(configuration)
            return self._current

    def _new_session(self, configuration: Any) -> _Session:
        try:
            return _Session(configuration, _new_pool(configuration, self._announce))
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
            value = _authorization(session.configuration, self.config)
            self._header = _Header(session, self._clock() + HEADER_LIFE, value)
            return value

    @staticmethod
    def _host(session: _Session) -> str:
        return str(session.configuration.host).rstrip("/")

    # -- streams

    def _announce(self, wire: object) -> None:
        """A connection of this thread has sent its request and now waits for the answer."""
        link: _Link | None = getattr(self._opening, "link", None)
        if link is not None:
            link.adopt(wire)

    def _open_link(
        self, link: _Link, path: str, headers: dict[str, str], idle_timeout: float, expected: int
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
        self, session: _Session, path: str, headers: dict[str, str], idle_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        timeouts = (CONNECT_TIMEOUT, idle_timeout)
        return self._urlopen(session, "GET", path, headers, None, timeouts, pool_timeout=FIRST_CONTACT_PATIENCE)

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection that stays open; any thread may cut it at any time, also while it is being opened."""

    def __init__(self, api: Api, path: str) -> None:
        self._api = api
        self._path = path
        self._cut_lock = threading.Lock()
        self._wire: Any = None
        self._socket: socket.socket | None = None
        self._response: urllib3.BaseHTTPResponse | None = None
        self.closed = False

    def adopt(self, wire: Any) -> None:
        """Learn the socket, before the answer has come: kubelet sends no header before a log's first byte."""
        base = wire
        while base is not None and not isinstance(base, socket.socket):
            base = getattr(base, "socket", None)  # TLS to the server inside of TLS to a proxy
        with self._cut_lock:
            self._wire, self._socket = wire, base
            if self.closed and base is not None:
                _shut(base)

    def close(self) -> None:
        """End the stream. From any thread; whoever reads it is woken at once."""
        with self._cut_lock:
            self.closed = True
            if self._socket is not None:
                _shut(self._socket)

    def _release(self, *, reusable: bool) -> None:
        """Give the connection back to the pool: by the thread that reads, when it has done."""
        with self._cut_lock:
            self._wire = self._socket = None  # the descriptor may soon be another connection's
            response, self._response = self._response, None
            reusable = reusable and not self.closed
        self._api._forget(self)
        if response is None:
            return
        if not reusable:
            response.close()
        response.release_conn()


class Stream(_Link):
    """The pieces of one long answer, as they arrive. Use as a context manager; connects on entering.

    Iteration ends when the server ends the answer or when :meth:`close` is called. ConnectionFailed is raised
    for a cut (reason ``lost``) and for `idle_timeout` seconds without a byte (``timeout``).
    """

    def __init__(
        self,
        api: Api,
        path: str,
        accept: str,
        idle_timeout: float,
        split: Callable[[Iterator[bytes]], Iterator[bytes]],
    ) -> None:
        super().__init__(api, path)
        self._accept = accept
        self._idle_timeout = idle_timeout
        self._split = split
        self._at_end = False

    def __enter__(self) -> Self:
        try:
            self._response = self._api._open_link(
                self, self._path, {"Accept": self._accept}, self._idle_timeout, expected=200
            )
        except BaseException:
            self._release(reusable=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(reusable=self._at_end)

    def __iter__(self) -> Iterator[bytes]:
        return self._split(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        if self._response is None:
            return
        answer = _answer(self._response)
        while True:
            try:
                # read1 returns what one read of the socket brings: nothing waits for a buffer to fill.
                piece = answer.read1(65536)
            except (OSError, http.client.HTTPException) as exc:
                if self.closed:
                    return
                raise self._api._failure("GET", self._path, exc) from exc
            if not piece:
                self._at_end = True
                return
            yield piece


class Websocket(_Link):
    """An upgraded connection: raw bytes both ways; the frames are
    :mod:`kubefunc.backends.kubernetes.transport`'s.

    Attributes:
        subprotocol: what the server chose; known once open.
    """

    def __init__(self, api: Api, path: str, subprotocols: Sequence[str], timeout: float) -> None:
        super().__init__(api, path)
        self._offered = tuple(subprotocols)
        self._timeout = timeout
        self._reader: Any = None
        self._early = memoryview(b"")
        self.subprotocol = ""

    def open(self) -> None:
        """Connect and upgrade. Raises ApiError where the server refuses to."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Accept": "*/*",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Protocol": ", ".join(self._offered),
        }
        try:
            response = self._api._open_link(self, self._path, headers, self._timeout, expected=101)
            self._response = response
            self.subprotocol = self._checked(response, key)
        except BaseException:
            self._release(reusable=False)
            raise
        self._reader = _answer(response).fp

    def _checked(self, response: urllib3.BaseHTTPResponse, key: str) -> str:
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # RFC 6455
        chosen = response.headers.get("Sec-WebSocket-Protocol", "")
        if response.headers.get("Sec-WebSocket-Accept") == base64.b64encode(digest).decode() and (
            chosen in self._offered
        ):
            return chosen
        raise self._api._failure(
            "GET", self._path, http.client.HTTPException("what answers the upgrade speaks no websocket")
        )

    def read_into(self, view: memoryview) -> int:
        """Read what is there, at most ``len(view)`` bytes; 0 at the end, also after :meth:`close`.

        Raises TimeoutError after the timeout, other OSErrors when the connection breaks.
        """
        try:
            return self._receive(view)
        except TimeoutError:
            raise
        except OSError:
            if self.closed:
                return 0
            raise

    def _receive(self, view: memoryview) -> int:
        if self._reader is not None:
            # The first frames may have come with the answer's headers: http.client's buffered reader has them
            # then. (Its readinto1 would wait for more although it has some, when `view` is larger than its
            # buffer.)
            self._early = memoryview(self._reader.read1())
            self._reader = None
            if not self._early:
                return 0
        if self._early:
            size = min(len(view), len(self._early))
            view[:size] = self._early[:size]
            self._early = self._early[size:]
            return size
        wire = self._wire
        return int(wire.recv_into(view)) if wire is not None else 0

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`. Raises OSError."""
        wire = self._wire
        if wire is None or self.closed:
            raise BrokenPipeError("the stream is closed")
        wire.sendall(data)

    def set_timeout(self, seconds: float) -> None:
        """How long the next reads and writes may take."""
        wire = self._wire
        if wire is not None:
            wire.settimeout(seconds)

    def release(self) -> None:
        """Close, and give the pool its slot back: by the thread that reads."""
        self._release(reusable=False)


# -- pure helpers, and the few that touch `kubernetes`


class _Patience:
    """When to try again and when to give up: tenacity's stop and wait, on our clock."""

    def __init__(
        self,
        deadline: float,
        clock: Callable[[], float],
        contacted: Callable[[], bool],
        closed: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._closed = closed
        self._contacted = contacted
        self._deadline = deadline
        self._start = clock()

    def left(self) -> float:
        limit = self._deadline if self._contacted() else min(self._deadline, FIRST_CONTACT_PATIENCE)
        return limit - (self._clock() - self._start)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        if self._closed() or self.left() <= 0.05:
            return True
        # A server that nobody has reached yet is more likely misconfigured than restarting.
        exc = _exception(state)
        hopeless = isinstance(exc, ConnectionFailed) and exc.reason in ("refused", "dns", "proxy", "tls")
        return hopeless and not self._contacted() and state.attempt_number >= FIRST_CONTACT_ATTEMPTS

    def wait(self, state: tenacity.RetryCallState) -> float:
        exc = _exception(state)
        asked = exc.retry_after if isinstance(exc, ApiError) else None
        if asked is not None:
            pause = min(asked, RETRY_AFTER_CAP) * random.uniform(1.0, 1.2)
        else:
            pause = backoff(state.attempt_number)
        return max(min(pause, self.left()), 0.0)


def backoff(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th failure in a row: 0.1 doubling to 5, less up to half at random.

    >>> 0.05 <= backoff(1) <= 0.1 and 2.5 <= backoff(100) <= 5.0
    True
    """
    return min(5.0, 0.1 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)


def _exception(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _with_query(path: str, query: Query | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


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


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, each as soon as its end is there; an unfinished last one too.

    >>> list(split_lines([b"a", b"b\\nc\\n", b"d"]))
    [b'ab', b'c', b'd']
    """
    pending: list[bytes] = []
    for piece in pieces:
        first, *rest = piece.split(b"\n")
        pending.append(first)
        if not rest:
            continue
        yield b"".join(pending)
        yield from rest[:-1]
        pending = [rest[-1]]
    last = b"".join(pending)
    if last:
        yield last


def _answer(response: urllib3.BaseHTTPResponse) -> http.client.HTTPResponse:
    # urllib3 1.26 has no read1, and its stream() and 2.x's read(amt) both wait until `amt` bytes have come
    # when an answer is not chunked. http.client's own response does neither; all versions keep it under this
    # name.
    answer: http.client.HTTPResponse = response._original_response  # type: ignore[attr-defined]
    return answer


def _shut(sock: socket.socket) -> None:
    # The base class's shutdown: SSLSocket's own first drops the TLS state that another thread is reading
    # with.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _diagnose(exc: Exception) -> tuple[str, bool]:
    """The reason of a ConnectionFailed, and whether trying again is pointless."""
    from urllib3 import exceptions

    chain = list(_chain(exc))
    if any(isinstance(one, ssl.SSLError) and not isinstance(one, _TLS_CUTS) for one in chain):
        return "tls", True
    if any(isinstance(one, _TLS_CUTS) for one in chain):
        return "lost", False
    if isinstance(exc, exceptions.SSLError):  # a certificate file that is not there, a host name that does not match
        return "tls", True
    if any(isinstance(one, socket.gaierror) for one in chain):
        return "dns", False
    if isinstance(exc, exceptions.ProxyError):
        return "proxy", False
    if isinstance(exc, exceptions.EmptyPoolError):
        return "busy", False
    if isinstance(exc, exceptions.NewConnectionError) or any(isinstance(one, ConnectionRefusedError) for one in chain):
        return "refused", False
    if isinstance(exc, (exceptions.TimeoutError, TimeoutError)):
        return "timeout", False
    return "lost", False


# What a server that goes away in the middle of a handshake leaves behind; every other SSLError is a verdict.
_TLS_CUTS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        yield from (arg for arg in exc.args if isinstance(arg, BaseException))
        exc = exc.__cause__ or exc.__context__


def _load(config: ClusterConfig) -> Any:
    """A `kubernetes` Configuration with the credentials of `config`. May run a credential plugin."""
    from kubernetes import config as untyped
    from kubernetes.client import Configuration

    loaders: Any = untyped
    # Never the default that the user's program may have set for another cluster: its token would go to this
    # one. (Configuration() returns a copy of that up to version 36, by a metaclass.)
    configuration = type.__call__(Configuration)
    try:
        if config.source == IN_CLUSTER:
            loaders.load_incluster_config(client_configuration=configuration)
        else:
            loaders.load_kube_config(
                config_file=os.pathsep.join(config.files),
                context=config.context,
                client_configuration=configuration,
            )
    except (loaders.ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        # What is malformed below the entries that find_config has checked surfaces as any of these.
        raise ConfigurationError(
            f"The credentials of the context {config.context!r} in {config.source} cannot be loaded: {exc}"
        ) from exc
    if config.plugin is not None and not configuration.api_key and not configuration.cert_file:
        # kubernetes.config logs a plugin's failure and goes on without credentials, as "system:anonymous".
        raise ConfigurationError(
            f"The credential plugin {config.plugin!r} of the context {config.context!r} in {config.source} "
            "gave no credentials; its own words are in the log above. `kubectl get pods` must work first."
        )
    return configuration


def _authorization(configuration: Any, config: ClusterConfig) -> dict[str, str]:
    try:
        settings = configuration.auth_settings()
    except Exception as exc:  # the hook reads files and runs plugins: nothing less says what it may raise
        raise ConfigurationError(
            f"The credentials of the context {config.context!r} in {config.source} cannot be renewed: {exc}"
        ) from exc
    return {setting["key"]: setting["value"] for setting in settings.values() if setting["value"]}


def _same_connections(old: Any, new: Any) -> bool:
    """Whether open connections may go on after a reload. Those made with a client certificate may not."""
    names = ("host", "ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "tls_server_name", "proxy")
    same = all(getattr(old, name, None) == getattr(new, name, None) for name in names)
    return same and not getattr(new, "cert_file", None)


def _new_pool(configuration: Any, announce: Callable[[object], None]) -> urllib3.PoolManager:
    """The pool that `kubernetes` would use, made bounded, kept alive by TCP, and telling us its sockets."""
    from kubernetes.client import rest

    pool: urllib3.PoolManager = rest.RESTClientObject(configuration).pool_manager
    pool.connection_pool_kw.update(maxsize=CONNECTIONS, block=True, socket_options=_socket_options())
    _share_tls_context(pool.connection_pool_kw)
    pool.pool_classes_by_scheme = {
        scheme: _announcing(kind, announce) for scheme, kind in pool.pool_classes_by_scheme.items()
    }
    return pool


def _share_tls_context(settings: dict[str, Any]) -> None:
    """Read the certificates once, not once a connection: that costs more than the handshake itself."""
    from urllib3.util import create_urllib3_context

    authority = settings.pop("ca_certs", None)
    authority_data = settings.pop("ca_cert_data", None)
    certificate, key = settings.pop("cert_file", None), settings.pop("key_file", None)
    context = create_urllib3_context(cert_reqs=settings["cert_reqs"])
    if authority or authority_data:
        context.load_verify_locations(cafile=authority, cadata=authority_data)
    elif settings["cert_reqs"] != ssl.CERT_NONE:
        context.load_default_certs()
    if certificate:
        context.load_cert_chain(certificate, key)
    settings["ssl_context"] = context


def _announcing(pool_class: Any, announce: Callable[[object], None]) -> Any:
    """`pool_class` with connections that call `announce(socket)` before they wait for an answer."""

    class Connection(pool_class.ConnectionCls):  # type: ignore[misc]
        def getresponse(self) -> Any:
            announce(self.sock)
            return super().getresponse()

    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": Connection})


def _socket_options() -> list[tuple[int, int, int]]:
    """No delay; and TCP itself notices a dead peer after about a minute (a laptop that slept)."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
