"""Run every benchmark of this folder in a separate process and store its output as JSON (``make bench``)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import masam

HERE = Path(__file__).parent

# Experiments train models or read the results of training; run them on their own.
EXPERIMENTS = {"prompts", "sites"}


def main() -> None:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for script in sorted(HERE.glob("*.py")):
        if script.name.startswith("_") or script.stem in EXPERIMENTS:
            continue
        print(f"== {script.stem}", flush=True)
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        print(done.stdout, flush=True)
        record = {
            "benchmark": script.stem,
            "masam": masam.__version__,
            "machine": platform.machine(),
            "output": done.stdout,
        }
        (results / f"{stamp}-{script.stem}.json").write_text(json.dumps(record, indent=2) + "\n")


main()
