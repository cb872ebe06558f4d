"""Attacks on whole videos: what is attacked is the mean score over a video's frames."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.norms import Budget
from dfcore.attacks.template import NormAttack, check_batch, log_odds
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import crafting_mode

__all__ = ["ConsistentVideo", "FreeVideo", "VideoAttack"]

VideoIds = torch.Tensor | Sequence[object]


class _Frames(NamedTuple):
    """Which frame belongs where: `video` (N,) numbers the videos, `place` (N,) runs 0..1 within each.

    `own` (N, V) is 1 where a frame is one of the video's, else 0.
    """

    video: torch.Tensor
    place: torch.Tensor
    own: torch.Tensor


class VideoAttack(NormAttack):
    """Projected gradient ascent on the margin of each video: how far its mean score is on the wrong side.

    A frame whose score is settled counts for little in the mean, so that the others are climbed on.

    A family says how many changes a video has and how its frames share them. Frames of one video lie in one
    batch, in their order in time.

    Attributes:
        step_size: in the norm's units.
        steps: gradient steps.
        restarts: independent random starts; the worst result counts, for each video.
    """

    step_size: Budget = Field(default=2 / 255)
    steps: int = Field(default=20, ge=1)
    restarts: int = Field(default=1, ge=1)

    def __call__(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
        video_ids: VideoIds | None = None,
    ) -> torch.Tensor:
        """Attack a batch of whole videos.

        Args:
            detector: left exactly as it was.
            images: (N, 3, H, W) float32 in [0, 1], the frames of a video in their order in time.
            labels: (N,), the same for all frames of a video.
            threshold: the deployed threshold on the score, in (0, 1).
            generator: of the random starts.
            video_ids: (N,), which video each frame is of.

        Returns:
            (N, 3, H, W) float32 in [0, 1].

        Raises:
            ShapeError: images, labels or video_ids do not fit.
            ConfigError: no video_ids, a video with two labels, or a threshold outside (0, 1).
        """
        check_batch(images, labels, threshold)
        frames = _read_ids(video_ids, labels)
        with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
            clean = images.detach().clone()
            return self._attack(detector, clean, labels.clone(), threshold, generator, frames).detach()

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Refuse: without ids there are no videos.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"expected video_ids, one for each image; call {self.kind}(..., video_ids=…)")

    @abstractmethod
    def shares(self, frames: _Frames) -> torch.Tensor:
        """Return (N, K): how much of each of the K changes each frame gets; rows sum to 1, none negative."""

    def _attack(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
        frames: _Frames,
    ) -> torch.Tensor:
        shares = self.shares(frames)
        best = images
        sign, offset, outside = 1 - 2 * labels.to(images.dtype), log_odds(threshold), frames.own.log()
        video_sign = sign.new_zeros(frames.own.shape[1]).index_copy(0, frames.video, sign)

        def judge(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return each video's margin (V,), and what each frame's margin (N,) counts for in its own."""
            logit, counts = aggregate(sign * value + offset, outside)
            return video_sign * (logit - offset), counts

        highest = judge(self.value(detector, images, labels, threshold))[0]
        zero = images.new_zeros((shares.shape[1], *images.shape[1:]))
        for _ in range(self.restarts):
            delta = self.project(self.distance.random_start(zero, self.epsilon, generator), zero)
            for step in range(self.steps + 1):
                current = self.apply(delta, shares, images)
                if step < self.steps:
                    value, slope = self.gradient(detector, current, labels, threshold)
                    whole, counts = judge(value)
                    climb = (shares.T @ (counts.unsqueeze(1) * slope.flatten(1))).view_as(delta)
                    delta = self.project(self.step(delta, climb, self.step_size), zero)
                else:
                    whole = judge(self.value(detector, current, labels, threshold))[0]
                better = whole > highest
                best = torch.where(better[frames.video].view(-1, 1, 1, 1), current, best)
                highest = torch.where(better, whole, highest)
        return best

    def apply(self, delta: torch.Tensor, shares: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the frames with their shares of the changes, within the box."""
        return self.clamp(images + (shares @ delta.flatten(1)).view_as(images))


class ConsistentVideo(VideoAttack):
    """Changes that stay or move smoothly over a video, so that they survive its coding and do not flicker.

    Faces are cropped along their track, so that a change that is fixed in the crop follows the face.

    Attributes:
        keyframes: changes of a video; between them it is interpolated over time. 1 is one for all frames.
    """

    kind: Literal["video-consistent"] = "video-consistent"
    keyframes: int = Field(default=1, ge=1)

    def shares(self, frames: _Frames) -> torch.Tensor:
        """Interpolate linearly between the keyframes of the frame's own video."""
        place = frames.place * (self.keyframes - 1)
        keys = torch.arange(self.keyframes, device=place.device)
        near = (1 - (place.unsqueeze(1) - keys).abs()).clamp_min(0)
        return (frames.own.unsqueeze(2) * near.unsqueeze(1)).flatten(1)


class FreeVideo(VideoAttack):
    """A change of its own for each frame, judged by the video's aggregate: the strongest attack on it."""

    kind: Literal["video-aggregate"] = "video-aggregate"

    def shares(self, frames: _Frames) -> torch.Tensor:
        """Give each frame its own."""
        return torch.eye(len(frames.video), device=frames.video.device)


def _read_ids(video_ids: VideoIds | None, labels: torch.Tensor) -> _Frames:
    if video_ids is None:
        raise ConfigError("expected video_ids, one for each image, got none; a video attack needs them")
    names = video_ids.tolist() if isinstance(video_ids, torch.Tensor) else list(video_ids)
    if len(names) != len(labels):
        raise ShapeError(f"expected {len(labels)} video_ids, one for each image, got {len(names)}")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    rows: dict[object, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    place = torch.zeros(len(names))
    known = labels.tolist()
    for name, members in rows.items():
        if len({known[row] for row in members}) > 1:
            raise ConfigError(f"expected one label for each video, got both for {name!r}")
        place[members] = torch.linspace(0, 1, len(members))
    video = torch.tensor([numbers[name] for name in names], dtype=torch.long)
    own = nn.functional.one_hot(video, len(numbers)).to(place.dtype)
    return _Frames(video.to(labels.device), place.to(labels.device), own.to(labels.device))


def aggregate(logits: torch.Tensor, outside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log odds of each video's mean score, exact where the score itself would round to 0 or 1.

    With p = sigmoid(z), the mean of p has the odds sum(p) / sum(1 - p).

    Args:
        logits: (N,) of the frames.
        outside: (N, V), -inf, but 0 where a frame is one of the video's.

    Returns:
        (V,); and its derivative to each frame's logit (N,), positive, where it underflows 0.
    """
    fake, real = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    over, under = (torch.logsumexp(part.unsqueeze(1) + outside, 0) for part in (fake, real))
    both = (fake + real).unsqueeze(1) + outside
    return over - under, ((both - over).exp() + (both - under).exp()).sum(1)
