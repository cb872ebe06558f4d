"""Explanations: where a detector looks, and how an attack moves it."""

from __future__ import annotations

from dfcore.explain.cam import grad_cam

__all__ = ["grad_cam"]
