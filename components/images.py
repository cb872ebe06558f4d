"""The image that every component runs in, and the decorator that puts a function there.

The image holds this project and the KFP SDK, so nothing is installed when a step starts. A cluster sets
`RAMPART_TRAINING_IMAGE` to a reference with a digest before it compiles; the local runner ignores it.
"""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl

__all__ = ["TRAINING_IMAGE", "component"]

# "python" in the name keeps KFP's local runner from warning that the image may hold no Python.
TRAINING_IMAGE = os.environ.get("RAMPART_TRAINING_IMAGE", "ghcr.io/rampart/rampart-python:0.1.0")


def component(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function into a KFP lightweight component that runs in `TRAINING_IMAGE`."""
    if not hasattr(dsl, "component"):
        return function  # inside a running step KFP leaves its authoring half out; helpers here still import
    built: Callable[..., Any] = dsl.component(function, base_image=TRAINING_IMAGE, install_kfp_package=False)
    return built
