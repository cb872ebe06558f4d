from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from dfcore.provenance import digest_json, sha256_file, source_commit, versions


def test_a_file_s_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_document_s_digest_is_canonical() -> None:
    assert digest_json({"a": 1, "b": [1.5, None]}) == digest_json({"b": [1.5, None], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})
    assert digest_json({}) == hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json({"a": float("nan")})


def test_the_commit_is_a_hash_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", source_commit())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit() == "unknown"


def test_versions_name_what_results_depend_on() -> None:
    found = versions()
    assert {"python", "rampart", "torch", "timm", "av"} <= set(found)
    assert all(re.match(r"\d+\.", value) for value in found.values())


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfcore.provenance._PACKAGES", ("torch", "no-such-package"))
    assert set(versions()) == {"python", "torch"}
