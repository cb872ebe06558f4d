"""Tensors on disk: whole, the same bytes as safetensors', and readable by others."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dfcore.errors import WorkFailed
from dfcore.models import save_tensors


def test_the_bytes_are_safetensors_own_and_others_may_read_them(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.uint8)}
    path = tmp_path / "deep" / "x.safetensors"
    save_tensors(path, {"a": torch.zeros(1)})
    save_tensors(path, tensors, {"kind": "test"})
    save_file(tensors, tmp_path / "plain", metadata={"kind": "test"})
    assert path.read_bytes() == (tmp_path / "plain").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == ["x.safetensors"]


def test_strides_and_gradients_don_t_matter(tmp_path: Path) -> None:
    turned = torch.arange(6.0, requires_grad=True).view(2, 3).T
    save_tensors(tmp_path / "x", {"a": turned})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), turned.detach())


def test_a_file_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WorkFailed, match=r"expected to write .*File too large.*; free space"):
            save_tensors(path, {"a": torch.ones(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
