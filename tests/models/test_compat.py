"""What makes torch fit the machine."""

import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from models.compat import keep_memory

if {keep}:
    keep_memory()
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 18)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_kept_memory_is_used_again() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", COUNT.format(keep=keep)]
        faults[keep] = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert faults[True] < faults[False] / 4
