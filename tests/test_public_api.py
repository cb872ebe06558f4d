"""Public doors and the command line change only on purpose.

`RAMPART_UPDATE=1 pytest tests/test_public_api.py` writes the list of options anew.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rampart import app

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = Path(__file__).with_name("command_line.json")
DOORS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in ("rampart", "dfcore", "components", "pipelines", "rollout", "serving")
    for path in (ROOT / package).rglob("__init__.py")
)


def _sorted(names: list[str]) -> list[str]:
    # ruff's order: CONSTANTS, Classes, functions
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[:1].isupper() else 2, name))


@pytest.mark.parametrize("door", DOORS)
def test_all_is_sorted_and_importable(door: str) -> None:
    package = importlib.import_module(door)
    names = list(getattr(package, "__all__", []))
    assert names == _sorted(names)
    for name in names:
        assert getattr(package, name) is not None


def test_the_command_line_is_frozen() -> None:
    found = _commands(typer.main.get_command(app))
    if os.environ.get("RAMPART_UPDATE"):
        OPTIONS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert found == json.loads(OPTIONS.read_text(encoding="utf-8"))


def _commands(command: Any, prefix: str = "rampart") -> dict[str, list[str]]:
    if hasattr(command, "commands"):
        found: dict[str, list[str]] = {}
        for name in sorted(command.commands):
            found |= _commands(command.commands[name], f"{prefix} {name}")
        return found
    return {prefix: sorted(option for parameter in command.params for option in parameter.opts)}
