"""A runtime's metrics over HTTP, on this machine only: what Prometheus scrapes at http://127.0.0.1:PORT/metrics.

As much of HTTP/1.1 as a scrape needs: GET and HEAD, one request a connection. Nothing but loopback is listened on,
because there is no authentication here, and labels tell the names of streams and shards.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus

import trio

from streamfn.doors.errors import beside
from streamfn.errors import FailedError, RefusedError, StreamfnError
from streamfn.mapping.metering import Metering
from streamfn.mapping.runtime import Runtime
from streamfn.measure import prometheus

ADDRESS = "127.0.0.1"
PATH = "/metrics"
# A request that is longer, or takes longer to be sent, is none of Prometheus'.
_REQUEST_BYTES_MAX = 16 * 1024
_REQUEST_S = 5.0
_CONNECTIONS_MAX = 32
_TEXT = "text/plain; charset=utf-8"


class MetricsPort:
    """A port that is bound, so that who asks for one that is taken hears of it before anything runs.

    `serve` answers on it; `close` gives it back, harmlessly twice.
    """

    def __init__(self, port: int) -> None:
        """Bind a port from 1 to 65535, or any free one for 0.

        Raises:
            RefusedError: it is no port, is in use, or needs privileges.
            FailedError: there are no descriptors left.
        """
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise RefusedError(f"a metrics port is a number from 1 to 65535, or 0 for any that is free, not {port!r}")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((ADDRESS, port))
            self._socket.listen(_CONNECTIONS_MAX)
        except OSError as error:
            self._socket.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                why = "is in use" if error.errno == errno.EADDRINUSE else "needs privileges"
                raise RefusedError(
                    f"the metrics port {port} {why}: choose another one, or 0 for any that is free"
                ) from None
            raise FailedError(f"the metrics port {port} cannot be opened: {os.strerror(error.errno or 0)}") from error
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://{ADDRESS}:{self.port}{PATH}"

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    async def serve(self, runtime: Runtime) -> None:
        """Answer scrapes until cancelled; call it before the runtime has mappings, or their past is not counted.

        A scrape that fails is answered with why; nothing that comes over the network ends this.
        """
        metering = Metering(runtime)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        present = 0

        async def answer(stream: trio.SocketStream) -> None:
            nonlocal present
            present += 1
            try:
                if present <= _CONNECTIONS_MAX:
                    await _answer(stream, metering)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass
            finally:
                present -= 1
                with trio.move_on_after(0):
                    await stream.aclose()

        await trio.serve_listeners(answer, [listener])


@contextmanager
def metrics_at(port: int | None) -> Iterator[MetricsPort | None]:
    """A bound port for as long as the block lasts; None for None. Errors as of `MetricsPort`."""
    bound = None if port is None else MetricsPort(port)
    try:
        yield bound
    finally:
        if bound is not None:
            bound.close()


@asynccontextmanager
async def metered(runtime: Runtime, port: MetricsPort | None) -> AsyncIterator[None]:
    """Answer scrapes while the block lasts, if there is a port to do so on, and say where."""
    if port is None:
        yield
        return
    runtime.say(f"metrics at {port.url}")
    async with beside(lambda: port.serve(runtime)):
        yield


async def _answer(stream: trio.SocketStream, metering: Metering) -> None:
    with trio.fail_after(_REQUEST_S):
        method, path = await _request(stream)
    kind, body = _TEXT, b""
    if not method:
        status, body = HTTPStatus.BAD_REQUEST, b"this is no HTTP request\n"
    elif method not in ("GET", "HEAD"):
        status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD are answered\n"
    elif path == "/":
        status, body = HTTPStatus.OK, f"streamfn's metrics are at {PATH}\n".encode()
    elif path != PATH:
        status, body = HTTPStatus.NOT_FOUND, f"there is nothing here: the metrics are at {PATH}\n".encode()
    else:
        try:
            families = await metering.families()
            # With a thousand mappings this is megabytes.
            body = await trio.to_thread.run_sync(prometheus.render, families)
            status, kind = HTTPStatus.OK, prometheus.CONTENT_TYPE
        except (StreamfnError, OSError) as error:  # the store, or /proc without a descriptor left to read it by
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode("utf-8", "backslashreplace")
    allow = "Allow: GET, HEAD\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()
    with trio.fail_after(_REQUEST_S):
        await stream.send_all(head if method == "HEAD" else head + body)
        await stream.send_eof()


async def _request(stream: trio.SocketStream) -> tuple[str, str]:
    """The method and path of a request, without its query; two empty texts if it is none."""
    data = b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        more = await stream.receive_some(4096)
        data += more
        if not more or len(data) > _REQUEST_BYTES_MAX:
            return "", ""
    words = data.partition(b"\n")[0].decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", ""
    return words[0], words[1].partition("?")[0]
