import os
import platform
import subprocess
import sys

import pytest

FREED_MEMORY = """
import resource, torch
from masam.device import keep_freed_memory
keep_freed_memory()
for times in (20, 20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(40_000_000, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("setting", "is_kept"), [({}, True), ({"MALLOC_CHECK_": "0"}, False)])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(setting, is_kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FREED_MEMORY], env=environment | setting, capture_output=True, text=True, check=True
    )
    # Huge pages make them fewer: a block of 40 MB takes 20 faults at least when its pages are new.
    assert (int(done.stdout) < 20) == is_kept
