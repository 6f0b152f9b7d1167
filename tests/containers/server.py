"""What all servers in containers have in common."""

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
    One server in a container, on 127.0.0.1, with what tests use of the embedded one.

    As a block it is up inside, and gone after. stop() and start() inside the block interrupt it: data and port
    stay the same.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    """The one that names another image."""
    stop_seconds: ClassVar[int] = 10

    def __init__(self, *, image: str, network: Network, start_seconds: float = 120.0) -> None:
        """`network` because an engine needn't have a default one. Fetching the image doesn't count as starting."""
        self._image = image
        self._network = network
        self._start_seconds = start_seconds
        self._port = 0
        self._has_been_up = False

    # For subclasses.

    @abstractmethod
    def _configure(self, container: DockerContainer) -> int:
        """Say what to run. Returns the port on which it listens inside; `self.port` is the one outside."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves requests; False also when it can't be reached."""

    def _run(self, *command: str) -> tuple[int, str]:
        """Run a tool inside: exit code and output."""
        done = self._container.exec(list(command))
        return done.exit_code or 0, done.output.decode(errors="replace")

    # For users.

    def __enter__(self) -> Self:
        try:
            self._container = DockerContainer(self._image).with_network(self._network)
            # Chosen here, since Docker's own choice would be another one after each start.
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
        """Start again after stop(). Raises ContainerError."""
        self._container.get_wrapped_container().start()
        self.wait_until_ready()

    def stop(self) -> None:
        """End it; may be called again."""
        self._container.get_wrapped_container().stop(timeout=self.stop_seconds)

    def wait_until_ready(self) -> None:
        """Return once it serves requests. Raises ContainerError."""
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
            time.sleep(_POLL_SECONDS)  # between two looks: a container tells nobody that it is ready
        self._has_been_up = True

    @property
    def has_been_up(self) -> bool:
        """Whether clients may know it."""
        return self._has_been_up

    @property
    def port(self) -> int:
        return self._port
