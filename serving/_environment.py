"""Set before torch is loaded: idle OpenMP threads sleep, and leave the cores to the probes."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
