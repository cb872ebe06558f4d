"""Checks on tensors at public doors; each raises an error that carries what came."""

from __future__ import annotations

import torch

from dfcore.errors import ShapeError

__all__ = ["check_images", "check_labels"]


def check_images(images: torch.Tensor) -> None:
    """Require a batch of images: (N, 3, H, W) float32 in [0, 1].

    Raises:
        ShapeError: another shape, type or range; NaN is outside the range.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"expected images (N, 3, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.float32:
        raise ShapeError(f"expected float32 images, got {images.dtype}; call .float() first")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ShapeError(
            f"expected images in [0, 1], got {images.min().item():.4g} to "
            f"{images.max().item():.4g}; divide by 255 or clamp"
        )


def check_labels(labels: torch.Tensor, images: torch.Tensor) -> None:
    """Require one label for each image: (N,) with real = 0 and fake = 1.

    Raises:
        ShapeError: another length, or a value that is neither 0 nor 1.
    """
    if labels.shape != images.shape[:1]:
        raise ShapeError(f"expected labels ({len(images)},), got {tuple(labels.shape)}")
    if labels.numel() and not bool(((labels == 0) | (labels == 1)).all()):
        raise ShapeError(f"expected labels 0 (real) or 1 (fake), got {sorted(set(labels.tolist()))}")
