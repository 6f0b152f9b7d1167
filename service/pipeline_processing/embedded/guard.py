"""
The guard: a small process that ends a server, or removes a folder, when the process that started it ends.

    guard.py folder PATH     creates PATH, and removes it at the end
    guard.py server ORDER    runs the command of ORDER (JSON), and terminates it at the end

A guard's stdin is a pipe from the process that started it. A byte or the end of input tells the guard to finish. The
kernel closes the pipe however that process ends, even by SIGKILL, so an orderly stop and the clean-up after a crash are
the same code path. A server's guard also keeps the pipe of the folder's guard open, so that the folder is removed after
the server has ended.

PR_SET_PDEATHSIG won't do: it fires when the *thread* that forked ends, is lost when the user changes, and removes no
folder. The guard itself creates the folder and starts the server, so that neither ever exists unguarded.

Runs by path under `python -I -S`, with the standard library only, so that it starts in about 30 ms.
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
    # A signal to all processes (from a container runtime or systemd) must not end the guard before its server. Use a
    # handler, because the server would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    match arguments:
        case ["folder", path]:
            os.mkdir(path)
            # A server that runs as another user must be able to enter its own folder.
            os.chmod(path, 0o711)  # noqa: S103
            _answer(path)
            _wait_for_notice()
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
        start_new_session=True,  # keep a terminal's Ctrl-C from the server
    )
    _answer(str(server.pid))
    threading.Thread(target=_stop_when_notified, args=(server, stop_signal, stop_seconds), daemon=True).start()
    code = server.wait()
    _kill_group(server)  # helpers that the server left behind
    for path in leftovers:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return code if code >= 0 else 128 - code


def _stop_when_notified(server: subprocess.Popen[bytes], stop_signal: int, stop_seconds: float) -> None:
    _wait_for_notice()
    server.send_signal(stop_signal)
    try:
        server.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        _kill_group(server)


def _answer(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the starter has ended already, so the input ends at once
        os.write(1, line.encode() + b"\n")


def _wait_for_notice() -> None:
    os.read(0, 1)  # not sys.stdin: a thread that blocks in its lock makes the interpreter abort at exit


def _kill_group(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
