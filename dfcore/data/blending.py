"""Self-blended fakes: a real face blended with a changed copy of itself, made in batches on the device.

What is left to see is what every face swap leaves: a blending border, and statistics that differ inside and
outside. No fake video is needed, so a detector trained on them does not learn one generator's traces.

Source: Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022, arXiv:2204.08376; an
implementation of our own. The paper's 81 landmarks are replaced by an egg around the five that a store has.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dfcore.data.augmentation import Colour, Resize, gaussian_blur

__all__ = ["face_masks", "is_blendable", "self_blend"]

# What makes source and target differ: colour nearly always, sharpness often.
_COLOUR = Colour(brightness=0.1, tint=20 / 255, contrast=0.1, saturation=0.3, hue=0.03)
_COARSER = Resize(scale=(0.3, 0.9))
_SHARPEN = 0.7
# Largest move, stretch and bend of the source, as shares of the image's side.
_SHIFT, _STRETCH, _BEND = 0.03, 0.05, 0.008
# The mask: range of the outline's size, bend and blur as shares of the face's height and the image's side.
_OUTLINE, _OUTLINE_BEND, _SOFTNESS = (0.8, 1.1), 0.18, (0.01, 0.05)


def is_blendable(landmarks: NDArray[np.float32], side: int) -> NDArray[np.bool_]:
    """Say which crops have landmarks that a mask can be built from.

    Args:
        landmarks: (n, 5, 2) x, y in the crop's pixels: eyes, nose, mouth corners; NaN where none were found.
        side: of the crops, in pixels.

    Returns:
        (n,) True where all five are known, the eyes lie above the mouth, and the face has an extent.
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    height = np.hypot(*(mouth - eyes).T)
    centre = (eyes + mouth) / 2
    with np.errstate(invalid="ignore"):
        usable: NDArray[np.bool_] = np.isfinite(landmarks).all((1, 2)) & (height > side / 16)
        usable &= (mouth[:, 1] > eyes[:, 1]) & ((centre > 0) & (centre < side)).all(1)
    return usable


def self_blend(
    images: torch.Tensor, landmarks: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a fake of each real crop.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        landmarks: (N, 5, 2) x, y in pixels, for which `is_blendable` holds.
        generator: on the images' device; the same state gives the same fakes.

    Returns:
        The fakes, (N, 3, H, W) float32 in [0, 1], in whole grey levels as the crops themselves are, and the
        masks that were blended in, (N, 1, H, W) in [0, 1].
    """
    draw = _Draw(images, generator)
    changed = _restyle(images, draw)
    swap = draw(0, 1) < 0.5
    source, target = torch.where(swap, images, changed), torch.where(swap, changed, images)
    masks = face_masks(landmarks, (images.shape[2], images.shape[3]), generator)
    # the mask moves with the source: its border then cuts through the target's face
    moved = F.grid_sample(
        torch.cat([source, masks], dim=1), _source_grid(draw), padding_mode="border", align_corners=False
    )
    # one of .25, .5, .75, 1, 1, 1; a table would be copied to the device, which waits for it
    masks = moved[:, 3:] * ((draw(0, 6).floor() + 1) / 4).clamp(max=1)
    fakes = target + masks * (moved[:, :3] - target)
    # real crops lie on whole grey levels; fakes between them would give themselves away
    return (fakes.clamp(0, 1) * 255).round() / 255, masks


def face_masks(landmarks: torch.Tensor, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw a soft, bent egg around each face.

    Args:
        landmarks: (N, 5, 2) x, y in pixels.
        size: height and width of the masks.
        generator: on the landmarks' device.

    Returns:
        (N, 1, H, W) float32 in [0, 1], 1 inside.
    """
    height, width = size
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    length = (eyes - mouth).norm(dim=1).view(-1, 1, 1, 1)
    upwards = ((eyes - mouth) / length.view(-1, 1)).view(-1, 2, 1, 1)
    rows = torch.arange(height, device=landmarks.device, dtype=landmarks.dtype)
    columns = torch.arange(width, device=landmarks.device, dtype=landmarks.dtype)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]
    draw = _Draw(landmarks.new_empty((len(landmarks), 1, height, width)), generator)
    offsets = pixels - ((eyes + mouth) / 2).view(-1, 2, 1, 1) + length * draw.field(_OUTLINE_BEND)
    up = (offsets * upwards).sum(1, keepdim=True) / length
    across = (offsets[:, :1] * upwards[:, 1:] - offsets[:, 1:] * upwards[:, :1]) / length
    # a turned face shows its eyes close together, but stays about as wide
    apart = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1).view(-1, 1, 1, 1) / length
    half = apart.clamp(0.8, 1.3) * draw(*_OUTLINE)
    forehead, chin = 1.25 * draw(*_OUTLINE), 1.2 * draw(*_OUTLINE)
    inside = (across / half) ** 2 + (up / torch.where(up > 0, forehead, chin)) ** 2 < 1
    softness = draw(*_SOFTNESS) * height
    return gaussian_blur(inside.to(landmarks.dtype), softness, 2 * int(2 * _SOFTNESS[1] * height) + 3)


class _Draw:
    """Draws values (N, 1, 1, 1) and smooth fields for one batch."""

    def __init__(self, images: torch.Tensor, generator: torch.Generator) -> None:
        self.images = images
        self.generator = generator

    def __call__(self, low: float, high: float) -> torch.Tensor:
        count, device = len(self.images), self.images.device
        return low + (high - low) * torch.rand((count, 1, 1, 1), generator=self.generator, device=device)

    def field(self, largest: float) -> torch.Tensor:
        """Return (N, 2, H, W): a smooth displacement, at most about `largest` in each direction."""
        shape = (len(self.images), 2, 5, 5)
        coarse = torch.rand(shape, generator=self.generator, device=self.images.device) * 2 - 1
        size = (self.images.shape[2], self.images.shape[3])
        return largest * F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)


def _restyle(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Change colours, and make half of the images coarser or sharper."""
    # from hardly to fully: a strong cast alone must not tell a fake
    coloured = images + draw(0, 1) * (_COLOUR.apply(images, draw.generator) - images)
    coarser = _COARSER.apply(coloured, draw.generator)
    softer = gaussian_blur(coloured, draw(0.8, 1.5), 7)
    sharper = (coloured + _SHARPEN * (coloured - softer)).clamp(0, 1)
    kind = draw(0, 1)
    return torch.where(kind < 0.3, coarser, torch.where(kind < 0.5, sharper, coloured))


def _source_grid(draw: _Draw) -> torch.Tensor:
    """Return (N, H, W, 2): where the source is read, a little moved, stretched and bent; 1 is half a side."""
    height, width = draw.images.shape[2:]
    device = draw.images.device
    rows = (torch.arange(height, device=device) * 2 + 1) / height - 1
    columns = (torch.arange(width, device=device) * 2 + 1) / width - 1
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]
    stretch = torch.cat([1 + draw(-_STRETCH, _STRETCH), 1 + draw(-_STRETCH, _STRETCH)], dim=1)
    shift = torch.cat([draw(-_SHIFT, _SHIFT), draw(-_SHIFT, _SHIFT)], dim=1)
    return (points * stretch + 2 * (shift + draw.field(_BEND))).permute(0, 2, 3, 1)
