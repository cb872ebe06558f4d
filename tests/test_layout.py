"""The tree keeps its promises: small files, thin components, no blanket except, the README's map."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rampart", "dfcore", "components", "pipelines", "rollout", "serving")
FILES = sorted(path for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py"))
MAX_LINES = 400
COMPONENTS = sorted(
    path for path in (ROOT / "components").glob("*.py") if "@component" in path.read_text(encoding="utf-8")
)
MAX_COMPONENT_BODY = 40


def test_files_are_at_most_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines for path in FILES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }  # fmt: skip
    assert not long


def test_no_blanket_except() -> None:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = [] if node.type is None else [ast.unparse(node.type)]
                if not caught or caught[0] in {"Exception", "BaseException"}:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_components_import_only_kfp_at_module_level(path: Path) -> None:
    allowed = {"kfp", "components.images", "typing"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.module in allowed


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_component_bodies_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    first = function.body[1]  # after the docstring
    assert (function.end_lineno or 0) - first.lineno < MAX_COMPONENT_BODY


def test_there_is_a_file_for_each_component() -> None:
    import components

    assert sorted(path.stem for path in COMPONENTS) == sorted(components.__all__)


def test_the_readme_tree_is_on_disk() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^    ([\w./-]+)/? +\S", text, flags=re.MULTILINE))
    named |= set(re.findall(r"^[│├└─ ]*([\w.-]+/)(?: .*)?$", text, flags=re.MULTILINE))
    missing = [name for name in named if name.endswith("/") and not list(ROOT.rglob(name.rstrip("/")))]
    assert not missing
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    folders = {Path(name).parts[0] for name in tracked if "/" in name and not name.startswith(".")}
    unnamed = sorted(folder for folder in folders if f"{folder}/" not in text)
    assert not unnamed, f"the README's tree does not name {unnamed}"
