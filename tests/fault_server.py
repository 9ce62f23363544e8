"""A local web server that serves one file and injects network faults."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from masam.weights.published import PublishedWeights


@dataclass(frozen=True)
class Fault:
    """The fault of one request; by default there is none."""

    status: int | None = None  # this status and an empty body
    headers: Mapping[str, str | None] = field(default_factory=dict)  # added or, by None, left out
    body: bytes | None = None  # in place of the file
    cut_after: int | None = None  # body bytes after which the connection ends
    reset: bool = False  # by a reset, not by an orderly shutdown
    stall_after: int | None = None  # body bytes after which the server stalls
    ignores_range: bool = False
    shift: int = 0  # offset of the sent range from the requested one
    pace: tuple[int, float] | None = None  # bytes at a time, and seconds between


class FaultServer(ThreadingHTTPServer):
    """Serves ``content`` at every address; the first faults of ``faults`` go to the first requests."""

    daemon_threads = True

    def __init__(self, content: bytes = b"", certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = content, '"v1"'
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.released = threading.Event()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.address = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}"
        self.url = f"{self.address}/weights.pth"

    @property
    def ranges(self) -> list[str | None]:
        """The requested ranges."""
        return [headers.get("range") for _, headers in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, *arguments: Any) -> None:
        """Log nothing; the tests read ``requests``."""

    def do_GET(self) -> None:
        server = self.server
        self.close_connection = True
        headers = {key.lower(): value for key, value in self.headers.items()}
        server.requests.append((self.path, headers))
        fault = server.faults.popleft() if server.faults else Fault()
        content = server.content if fault.body is None else fault.body
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if asked and not fault.ignores_range and headers.get("if-range", server.etag) == server.etag:
            start, status = int(asked[1]) + fault.shift, 206
        answer: dict[str, str | None] = {"Content-Type": "application/octet-stream", "ETag": server.etag}
        if status == 206 and start >= len(content):
            status, answer["Content-Range"] = 416, f"bytes */{len(content)}"
            content = b""
        elif status == 206:
            answer["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault.status:
            status, content = fault.status, fault.body or b""
        body = content[start:]
        answer |= {"Content-Length": str(len(body)), "Connection": "close", **fault.headers}
        self.send_response(status)
        for name, value in answer.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send(body, fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        ends = [len(body)] + [end for end in (fault.cut_after, fault.stall_after) if end is not None]
        body = body[: min(ends)]
        step, pause = fault.pace or (len(body) or 1, 0.0)
        for position in range(0, len(body), step):
            piece = body[position : position + step]
            self.wfile.write(piece)
            self.server.sent += len(piece)
            if pause and self.server.released.wait(pause):
                return
        if fault.stall_after is not None:
            self.server.released.wait(10)
        if fault.reset:
            time.sleep(0.05)  # so that the sent bytes arrive first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


@contextmanager
def serving(content: bytes = b"", certificate: Path | None = None) -> Iterator[FaultServer]:
    """Serve inside a ``with`` block."""
    with FaultServer(content, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def published(name: str, filename: str, url: str, content: bytes) -> PublishedWeights:
    """Return a registry entry for the file of a server."""
    return PublishedWeights(
        name=name,
        title="for tests",
        size="vit_b",
        url=url,
        filename=filename,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        page=f"https://example.org/{Path(filename).stem}",
    )


class Listener:
    """Progress that records its calls."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.steps: list[str] = []
        self.lines: list[str] = []

    def start(self, task: str, total: int) -> None:
        self.tasks.append((task, total))
        self.steps.clear()

    def advance(self, note: str = "") -> None:
        self.steps.append(note)

    def log(self, line: str) -> None:
        self.lines.append(line)


def free_port() -> int:
    """Return an unused local port."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
