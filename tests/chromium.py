"""Chromium, for tests of the board's page: the one on PATH, else Debian's, unpacked into the user's cache folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.debian import library_path, unpacked

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{root}/usr/share/fonts</dir><cachedir>{root}/fontconfig</cachedir></fontconfig>
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium. Raises PackageMissing if there is none."""
    program, environment = _program()
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers don't give. It shows no page but ours.
        browser = playwright.chromium.launch(
            executable_path=program, env={**os.environ, **environment}, chromium_sandbox=False, args=["--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def _program() -> tuple[str, dict[str, str]]:
    """Return the path of Chromium, and the environment variables that it needs."""
    if installed := next(filter(None, map(shutil.which, _NAMES)), None):
        return installed, {}
    root = unpacked("chromium")
    fonts = root / "fonts.conf"
    if not fonts.exists():
        fonts.write_text(_FONTS.format(root=root))
    environment = {"LD_LIBRARY_PATH": library_path(root), "FONTCONFIG_FILE": str(fonts)}
    return str(Path(root) / "usr" / "lib" / "chromium" / "chromium"), environment
