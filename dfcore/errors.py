"""Every error that Rampart raises on purpose.

    RampartError                    exit code
    ├── InvalidInput (ValueError)       2      the caller gave something unusable
    │   ├── ShapeError                         a tensor of the wrong shape, type or range
    │   ├── ConfigError                        a recipe, policy or option that does not fit
    │   └── DataError                          a data set, manifest or crop store that does not fit
    │       └── MediaError                     one image or video that can't be decoded
    ├── CheckFailed                     1      a check said no: corrupt bundle, bad signature, gate
    │   └── BundleError
    └── WorkFailed (RuntimeError)       3      the work itself broke off
        └── ConflictError                      somebody else moved the pointer first

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BundleError",
    "CheckFailed",
    "ConfigError",
    "ConflictError",
    "DataError",
    "InvalidInput",
    "MediaError",
    "RampartError",
    "ShapeError",
    "WorkFailed",
]


class RampartError(Exception):
    """The root; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 3


class InvalidInput(RampartError, ValueError):
    """The caller gave something unusable."""

    exit_code = 2


class ShapeError(InvalidInput):
    """A tensor has the wrong shape, type or range."""


class ConfigError(InvalidInput):
    """A recipe, policy or option does not fit."""


class DataError(InvalidInput):
    """A data set, manifest or crop store does not fit."""


class MediaError(DataError):
    """One image or video can't be decoded."""


class CheckFailed(RampartError):
    """A check said no."""

    exit_code = 1


class BundleError(CheckFailed):
    """A bundle is incomplete, altered or not signed by the expected key."""


class WorkFailed(RampartError, RuntimeError):
    """The work itself broke off."""


class ConflictError(WorkFailed):
    """A conditional write lost: somebody else wrote first."""
