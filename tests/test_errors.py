from __future__ import annotations

import pytest

from dfcore import errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    for name in errors.__all__:
        assert name in (errors.__doc__ or "")
        assert issubclass(getattr(errors, name), errors.RampartError)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RampartError, 3),
        (errors.InvalidInput, 2),
        (errors.ShapeError, 2),
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.MediaError, 2),
        (errors.CheckFailed, 1),
        (errors.BundleError, 1),
        (errors.WorkFailed, 3),
        (errors.ConflictError, 3),
    ],
)
def test_exit_codes(error: type[errors.RampartError], code: int) -> None:
    assert error("x").exit_code == code


def test_standard_errors_catch_ours() -> None:
    assert issubclass(errors.MediaError, ValueError)
    assert issubclass(errors.ConflictError, RuntimeError)
