"""
Runs commands in processes that are forked from this one, where the service is imported already.

Starting Python and importing the service takes several times as long as a small run, and the acceptance tests start it
more than a hundred times. A forked process is a process like any other, with its own signals, environment and
connections. `test_one_run.py`, which checks runs in detail, starts them from scratch.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import botocore.session
import opentelemetry.exporter.otlp.proto.http.metric_exporter  # imported for the children
import opentelemetry.exporter.prometheus
import opentelemetry.propagate  # noqa: F401
import sqlglot

import pipeline_processing
import pipeline_processing.cli.main

# What takes longer than a small run, done once for all children: the deferred imports of commands and plugins, the
# command line, and the description of S3 (both kept as tests/conftest.py says). A child would wait forever for a module
# that another thread was importing during the fork.
for module in pkgutil.walk_packages(pipeline_processing.__path__, "pipeline_processing."):
    if module.name.split(".")[1] not in ("demo", "embedded"):
        importlib.import_module(module.name)
for name in pipeline_processing.cli.main.COMMANDS:
    pipeline_processing.cli.main.program(name)
sqlglot.tokenize("SELECT 1", read="postgres")  # imports the dialect
botocore.session.get_session().create_client(
    "s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
)


class Forked:
    """A command with the methods of `subprocess.Popen` that the tests use. Its output goes to files in `folder`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], folder: Path) -> None:
        self.args = command
        self.returncode: int | None = None
        self._outputs = [folder / f"{name}-{time.monotonic_ns()}" for name in ("stdout", "stderr")]
        files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) for path in self._outputs]
        inherited = _open_files()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, files, env, folder, inherited)
        for file in files:
            os.close(file)

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return all output. Raises TimeoutExpired."""
        deadline = time.monotonic() + (timeout or 60.0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 60.0, *self._read())
            time.sleep(0.005)
        return self._read()

    def _read(self) -> tuple[str, str]:
        stdout, stderr = (path.read_text("utf-8") for path in self._outputs)
        return stdout, stderr

    def stdout_so_far(self) -> str:
        """Return its stdout so far, also while it runs."""
        return self._outputs[0].read_text("utf-8")

    def stderr_so_far(self) -> str:
        """Return its stderr so far, also while it runs."""
        return self._outputs[1].read_text("utf-8")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _open_files() -> dict[int, tuple[int, int]]:
    """Return the device and inode of each open descriptor of this process."""
    found = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own descriptor
            stat = os.fstat(fd)
            found[fd] = stat.st_dev, stat.st_ino
    return found


def _become(
    command: Sequence[str],
    files: Sequence[int],
    env: Mapping[str, str],
    folder: Path,
    inherited: Mapping[int, tuple[int, int]],
) -> None:
    """Run `python COMMAND…` and end the process. Never returns."""
    code = 255
    sys.settrace(None)  # turn coverage off
    gc.freeze()  # don't collect the parent's objects: Kafka clients would wait for threads that weren't forked
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in enumerate((nothing, *files)):
            os.dup2(source, target)
        # Close pytest's files and connections, but not those that libuv has reopened after the fork: without them it
        # hangs as soon as it starts another process.
        for fd, file in _open_files().items():
            if fd > 2 and inherited.get(fd) == file:
                os.close(fd)
        sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, encoding="utf-8") for fd, mode in enumerate("rww"))  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
        logging.getLogger().handlers = []
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does
        code = _run(command)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(command: Sequence[str]) -> int:
    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            return pipeline_processing.cli.main.main(command[2:])
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
