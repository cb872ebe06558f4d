"""The allocator's settings: a training step takes its activations from what the last one freed."""

import subprocess
import sys

_PROGRAM = """
import resource, sys
import torch
from torch import nn
from dfcore.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
torch.set_num_threads(1)
layers = [nn.Sequential(nn.Conv2d(32, 32, 1), nn.SiLU()) for _ in range(4)]
network = nn.Sequential(nn.Conv2d(3, 32, 1), *layers)
images = torch.rand(20, 3, 128, 128)  # activations of 40 MiB
for step in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(images).mean().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_SCATTERED = """
from pathlib import Path
from dfcore.allocator import return_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

blocks = [bytearray(b"x" * 65536) for _ in range(2000)]
del blocks[:-1]  # the last one keeps the end of the heap
before = resident()
return_freed_memory()
print(before - resident())
"""


def _faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_training_step_touches_few_new_pages() -> None:
    assert _faults("kept") < _faults("default") / 4


def test_what_is_freed_between_blocks_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCATTERED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 * 2**20
