"""Our own reading of the protocol between Lambda's Runtime Interface Emulator and a runtime, for where AWS's binary is
not at hand: one function, one invocation at a time.

    POST /2015-03-31/functions/function/invocations             the caller; answered with what the runtime answers
    GET  /2018-06-01/runtime/invocation/next                    the runtime waits here for its next event
    POST /2018-06-01/runtime/invocation/ID/response (or error)  and answers here: 202

It does less than AWS's: no limits, no log lines, no states, no time-outs; so the runtime client is never slower behind
it for the emulator's sake than it must be. Connections are kept open, as AWS's client does.
Run as a process, it prints its port.
"""

import socket
import threading
import time
from queue import SimpleQueue

CALLER, RUNTIME = "/2015-03-31/functions/function/invocations", "/2018-06-01/runtime/"
TIMEOUT_MS = 60_000


class Connection:
    """Requests of one kept-open connection."""

    def __init__(self, accepted):
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self._file = accepted.makefile("rb", 1 << 18)

    def request(self):
        """(method, path, body), or None at the end."""
        line = self._file.readline()
        if not line:
            return None
        method, path, _ = line.decode().split(" ", 2)
        size = 0
        while (header := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
            elif name.lower() == b"expect":
                self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return method, path, self._file.read(size)

    def respond(self, status, body, *headers):
        lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
        self._socket.sendall("\r\n".join((*lines, "", "")).encode() + body)


class Emulator:
    def __init__(self):
        self._server = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self._server.getsockname()[1]
        self._waiting = SimpleQueue()
        self._answers = SimpleQueue()
        self._turn = threading.Lock()
        self._count = 0

    def serve(self):
        while True:
            accepted, _ = self._server.accept()
            threading.Thread(target=self._connection, args=(Connection(accepted),), daemon=True).start()

    def _connection(self, connection):
        try:
            while request := connection.request():
                self._handle(connection, *request)
        except OSError:
            return  # the other side is gone

    def _handle(self, connection, method, path, body):
        if path == CALLER:
            with self._turn:
                self._waiting.put(body)
                result = self._answers.get()
            connection.respond("200 OK", result)
        elif path == RUNTIME + "invocation/next":
            self._count += 1
            event = self._waiting.get()
            connection.respond(
                "200 OK",
                event,
                f"Lambda-Runtime-Aws-Request-Id: 00000000-0000-4000-8000-{self._count:012d}",
                f"Lambda-Runtime-Deadline-Ms: {int(time.time() * 1000) + TIMEOUT_MS}",
                "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:bench",
                "Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000",
            )
        elif method == "POST" and path.startswith(RUNTIME + "invocation/"):
            self._answers.put(body)
            connection.respond("202 Accepted", b"{}")
        else:
            connection.respond("404 Not Found", b"{}")


if __name__ == "__main__":
    emulator = Emulator()
    print(emulator.port, flush=True)
    emulator.serve()
