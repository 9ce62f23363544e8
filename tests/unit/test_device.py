import os
import platform
import subprocess
import sys

import pytest
import torch

from masam.device import training_on

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


TINY = """
import torch
from masam.device import training_on
torch.set_num_threads(2)
tiny, one = float.fromhex("0x1p-140"), torch.ones(1 << 18)
with training_on(torch.device("cpu")):
    inside = one * tiny
print(int(inside.view(torch.int32).count_nonzero()), int((one[:8] * tiny).view(torch.int32).count_nonzero()))
"""


def test_training_takes_tiny_numbers_for_zero_on_all_threads_and_gives_them_back():
    # In a process of its own: threads that torch has begun before keep their mode.
    done = subprocess.run([sys.executable, "-c", TINY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "8"]


def test_what_another_has_set_stays_set():
    torch.set_flush_denormal(True)
    try:
        with training_on(torch.device("cpu")):
            pass
        smallest = sys.float_info.min
        assert smallest / 2 == 0
    finally:
        torch.set_flush_denormal(False)


def test_an_error_ends_the_mode_as_well():
    with pytest.raises(ZeroDivisionError), training_on(torch.device("cpu")):
        raise ZeroDivisionError
    smallest = sys.float_info.min
    assert smallest / 2 > 0
