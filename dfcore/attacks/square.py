"""Random search with squares: an attacker who sees scores only."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.norms import draw
from dfcore.attacks.template import Found, Knowledge, NormAttack, search_again

__all__ = ["Square"]

_FIRST_AREA = 0.8  # share of the image that the first squares cover
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
_COMPACT_EVERY = 100  # queries between two looks at which images still stand


class Square(NormAttack):
    """Change one random square at a time and keep it if the score moved the right way; no gradient is used.

    It shows gradient masking: a detector that falls to it, but not to gradient attacks, hides its gradient.

    Attributes:
        queries: forward passes for each image.
        until_fooled: an image is left alone once its decision has turned, as a real attacker would. Otherwise
            every query is spent to push it further, which rankings (AUC) want.

    Source: Andriushchenko et al., arXiv:1912.00049.
    """

    knowledge: ClassVar[Knowledge] = "black-box"
    kind: Literal["square"] = "square"
    norm: Literal["linf"] = "linf"
    queries: int = Field(default=5000, ge=1)
    until_fooled: bool = False

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Start from stripes, then try squares that shrink as the queries go."""

        def stripes(images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
            signs = _signs(images[:, :, :1], generator)
            point = self.clamp(self.project(images + self.epsilon * signs, images))
            return point, self.value(detector, point, labels, threshold)

        clean = (images, self.value(detector, images, labels, threshold))
        found = search_again(stripes, 1, images, labels, clean, until_fooled=self.until_fooled)
        for first in range(1, self.queries, _COMPACT_EVERY):
            block = range(first, min(first + _COMPACT_EVERY, self.queries))

            def search(
                images: torch.Tensor, labels: torch.Tensor, found: Found, block: range = block
            ) -> Found:
                for query in block:
                    point = self.propose(images, found[0], query, generator)
                    found = self.keep(found, point, self.value(detector, point, labels, threshold))
                return found

            found = search_again(search, 1, images, labels, found, until_fooled=self.until_fooled)
        # stripes are taken as they come: an image that they help keeps its clean pixels in the end
        return self.keep(clean, *found)[0]

    def propose(
        self, images: torch.Tensor, best: torch.Tensor, query: int, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return the best point with one random square set to +epsilon or -epsilon, channel by channel."""
        count, _, height, width = images.shape
        side = min(square_side(query, self.queries, height * width), height, width)
        where = draw(images[:, :2, :1, 0], generator)
        top = (where[:, 0] * (height - side + 1)).long()
        left = (where[:, 1] * (width - side + 1)).long()
        rows = torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        inside = ((rows >= top) & (rows < top + side)).unsqueeze(2)
        inside = inside & ((columns >= left) & (columns < left + side)).unsqueeze(1)
        signs = _signs(images[:, :, :1, :1], generator)
        # a square of the signs that are there already would waste the query
        index = torch.arange(count, device=images.device)
        middle = (index, slice(None), top[:, 0] + side // 2, left[:, 0] + side // 2)
        present = (best[middle] - images[middle]).sign().view_as(signs)
        same = (present == signs).all(dim=1, keepdim=True)
        signs = torch.where(same, -signs, signs)
        changed = torch.where(inside.unsqueeze(1), images + self.epsilon * signs, best)
        return self.clamp(self.project(changed, images))


def square_side(query: int, queries: int, pixels: int) -> int:
    """Return the side of the square tried at a query: large ones first.

    >>> [square_side(query, 10_000, 224 * 224) for query in (0, 11, 501, 9_000)]
    [200, 142, 50, 9]
    """
    halvings = sum(query * 10_000 / queries > limit for limit in _HALVINGS)
    return max(1, round(math.sqrt(_FIRST_AREA / 2**halvings * pixels)))


def _signs(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.where(draw(like, generator) < 0.5, -1.0, 1.0)
