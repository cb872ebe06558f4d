"""What the local runner refuses before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.errors import ConfigError
from pipelines.run import run_pipeline


def test_a_key_that_can_not_sign_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rampart.key").write_text("no key")
    monkeypatch.setenv("RAMPART_SIGNING_KEY", str(tmp_path / "rampart.key"))
    arguments = {"data_root": "none", "cross_root": "none", "registry": f"file://{tmp_path / 'registry'}"}
    with pytest.raises(ConfigError, match=r"expected a PEM private key at .*rampart\.key"):
        run_pipeline(arguments, tmp_path / "run")
    assert not (tmp_path / "run").exists()
