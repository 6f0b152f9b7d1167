"""
A proxy in front of a real server, which forwards everything until a test makes it fail.

    with FaultProxy(server.port) as proxy:
        with proxy.cut_off(): ...              # all connections are closed, new ones too
        with proxy.answering(SLOW_DOWN): ...   # every HTTP request gets this answer
        with proxy.hanging(): ...              # connections stay open, but nothing is forwarded
        with proxy.damaging(): ...             # a byte of all that is sent to the server is another
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

LOOPBACK = "127.0.0.1"
_LONGER_THAN_HEADERS = 4096

_SLOW_DOWN_XML = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>'
SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    + f"Content-Length: {len(_SLOW_DOWN_XML)}\r\n\r\n".encode()
    + _SLOW_DOWN_XML
)
"""S3's throttling error. In answer to a HEAD, which has no body, it is a plain 503."""


class FaultProxy:
    """Listens on its own port inside the block."""

    def __init__(self, port: int) -> None:
        self._behind = (LOOPBACK, port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cutting = False
        self._answer: bytes | None = None
        self._damages = 0
        self._flowing = threading.Event()
        self._flowing.set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._cut_all()

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Close all connections, and new ones inside the block at once."""
        self._cutting = True
        self._cut_all()
        try:
            yield
        finally:
            self._cutting = False

    @contextlib.contextmanager
    def answering(self, answer: bytes) -> Iterator[None]:
        """Send this answer to every HTTP request inside the block, without forwarding it."""
        self._answer = answer
        self._cut_all()
        try:
            yield
        finally:
            self._answer = None

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Forward nothing inside the block, in either direction, but accept new connections."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @contextlib.contextmanager
    def damaging(self, times: int = 1_000_000) -> Iterator[None]:
        """Inside the block, change the last byte of pieces that are too long to be headers only."""
        self._damages = times
        try:
            yield
        finally:
            self._damages = 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the block has ended
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._kept(client), contextlib.suppress(OSError):
            if self._cutting:
                return
            if self._answer is not None:
                if client.recv(65536):
                    client.sendall(self._answer)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(
                        65536
                    ):  # read the rest of the request, because closing earlier would reset the connection
                        pass
                return
            with self._kept(socket.create_connection(self._behind)) as server:
                back = self._start(self._pass_on, server, client)
                self._pass_on(client, server, damaged=self._damaged)
                back.join()

    def _damaged(self, data: bytes) -> bytes:
        with self._lock:
            if self._damages == 0 or len(data) < _LONGER_THAN_HEADERS:
                return data
            self._damages -= 1
        return data[:-1] + bytes([data[-1] ^ 1])

    def _pass_on(
        self, here: socket.socket, there: socket.socket, damaged: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                self._flowing.wait()
                there.sendall(damaged(data))
        for end in (here, there):  # nothing here uses half-open connections
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[socket.socket]:
        with connection:
            with self._lock:
                self._open.add(connection)
            try:
                yield connection
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _cut_all(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _start(target: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread
