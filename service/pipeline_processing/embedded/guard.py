"""
The watchdog that outlives us: ends a server, and removes its folder, once whoever started it is gone.

    guard.py folder PATH     makes PATH, and removes it when told to
    guard.py server ORDER    runs the command of ORDER (JSON), and ends it when told to

A guard's input is a pipe whose other end its starter holds. It is told by a byte, or by the end of its input:
the kernel closes the other end however the starter ends, also by SIGKILL. So stopping a server in order and
cleaning up after a crash are one code path. A server's guard also holds the folder's guard's input, which
therefore ends, and the folder with it, after the server.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that forked ends, is lost over a change of user, and
removes no folder. Why the guard makes the folder and starts the server, rather than being told of them: so
there is no moment in which they exist and nobody watches.

Run by path under `python -I -S`: only the standard library, so that it starts in about 30 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading


def main(arguments: list[str]) -> int:
    # The guard goes last: what ends us by a signal to everybody (a container, systemd) must not end it first.
    # A handler and not SIG_IGN, which the server would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    match arguments:
        case ["folder", path]:
            os.mkdir(path)
            # A server that runs as another user has to get through to its own folder.
            os.chmod(path, 0o711)  # noqa: S103
            _answer(path)
            _wait_until_told()
            shutil.rmtree(path, ignore_errors=True)
            return 0
        case ["server", order]:
            return _run(**json.loads(order))
    raise SystemExit(f"guard.py: not understood: {arguments}")


def _run(
    command: list[str],
    environment: dict[str, str],
    account: list[int] | None,
    stop_signal: int,
    stop_seconds: float,
    leftovers: list[str],
) -> int:
    uid, gid = account or (None, None)
    server = subprocess.Popen(  # noqa: S603 - the command is the launcher's own
        command,
        env=environment,
        user=uid,
        group=gid,
        extra_groups=None if account is None else [],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # a terminal's Ctrl-C reaches us, never the server
    )
    _answer(str(server.pid))
    threading.Thread(target=_end_when_told, args=(server, stop_signal, stop_seconds), daemon=True).start()
    code = server.wait()
    _kill_group(server)  # helpers that the server has left behind
    for path in leftovers:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return code if code >= 0 else 128 - code


def _end_when_told(server: subprocess.Popen[bytes], stop_signal: int, stop_seconds: float) -> None:
    _wait_until_told()
    server.send_signal(stop_signal)
    try:
        server.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        _kill_group(server)


def _answer(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked is gone: all the more there is to end
        os.write(1, line.encode() + b"\n")


def _wait_until_told() -> None:
    os.read(0, 1)  # not sys.stdin: a thread that blocks in its lock makes the interpreter abort at exit


def _kill_group(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
