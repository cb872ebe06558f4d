from __future__ import annotations

import re
from pathlib import Path


def test_the_example_of_the_guide_runs() -> None:
    guide = Path(__file__).parents[2] / "docs" / "adding-a-defence.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(guide), "exec"), {})  # noqa: S102  # our own text
