"""The command line, with its peak memory as the last line on stderr: `VmHWM: 123456 kB`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_processing.cli.main import main

code = main(sys.argv[1:])
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(" ".join(peak.split()), file=sys.stderr)
sys.exit(code)
