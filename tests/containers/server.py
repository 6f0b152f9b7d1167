"""The base class of the servers in containers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import ClassVar, Self

from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from pipeline_processing.embedded.ports import LOOPBACK, free_ports
from tests.containers.engine import ContainerError

_POLL_SECONDS = 0.1
_LOG_LINES = 20


class ContainerServer(ABC):
    """
    A server in a container, on 127.0.0.1, with the methods of the embedded one that tests use.

    It runs inside its `with` block. There, stop() and start() restart it with the same data and port.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable that names another image."""
    stop_seconds: ClassVar[int] = 10

    def __init__(self, *, image: str, network: Network, start_seconds: float = 120.0) -> None:
        """`network`, because an engine may have no default one. `start_seconds` excludes pulling the image."""
        self._image = image
        self._network = network
        self._start_seconds = start_seconds
        self._port = 0
        self._has_been_up = False

    # For subclasses.

    @abstractmethod
    def _configure(self, container: DockerContainer) -> int:
        """Configure the container. Returns the port inside it; `self.port` is the one outside."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves requests; False if it can't be reached."""

    def _run(self, *command: str) -> tuple[int, str]:
        """Run a tool inside the container. Returns exit code and output."""
        done = self._container.exec(list(command))
        return done.exit_code or 0, done.output.decode(errors="replace")

    # For users.

    def __enter__(self) -> Self:
        try:
            self._container = DockerContainer(self._image).with_network(self._network)
            # Chosen here, because Docker would choose another port at each start.
            self._port = free_ports(1)[0]
            inside = self._configure(self._container)
            self._container.ports[str(inside)] = (LOOPBACK, self._port)  # type: ignore[assignment] # as docker-py has it
            self._container.start()
            self.wait_until_ready()
        except DockerException as error:
            self.__exit__()
            raise ContainerError(
                f"{self.name} can't be started from the image {self._image}: {error}\n"
                f"{self.variable} names another image."
            ) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._container.stop()  # and remove

    def start(self) -> None:
        """Start again after stop(), and wait until it is ready. Raises ContainerError."""
        self._container.get_wrapped_container().start()
        self.wait_until_ready()

    def stop(self) -> None:
        """Stop it. May be called again."""
        self._container.get_wrapped_container().stop(timeout=self.stop_seconds)

    def wait_until_ready(self) -> None:
        """Wait until it serves requests. Raises ContainerError."""
        container = self._container.get_wrapped_container()
        deadline = time.monotonic() + self._start_seconds
        while not self._is_ready():
            container.reload()
            has_ended = container.status != "running"
            if has_ended or time.monotonic() > deadline:
                what = "ended before it was ready" if has_ended else f"wasn't ready after {self._start_seconds:g} s"
                log = container.logs(tail=_LOG_LINES).decode(errors="replace")
                raise ContainerError(
                    f"{self.name} from the image {self._image}, on {LOOPBACK}:{self.port}, {what}. Its log ends with:\n"
                    f"{log}{self.variable} names another image."
                )
            time.sleep(_POLL_SECONDS)  # poll, because a container doesn't announce that it is ready
        self._has_been_up = True

    @property
    def has_been_up(self) -> bool:
        """Whether it has been ready once, so that clients may know its port."""
        return self._has_been_up

    @property
    def port(self) -> int:
        return self._port
