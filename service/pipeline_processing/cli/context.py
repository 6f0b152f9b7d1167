"""What a command works with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_processing.settings import Settings


def current_settings() -> Settings:
    """The settings of this process. Raises SettingsError with every fault."""
    from pipeline_processing.settings_loader import load_settings

    return load_settings(os.environ).settings
