from __future__ import annotations

import pytest
import torch
from torch import nn

from dfcore.attacks import PGD, ConsistentVideo, FreeVideo, VideoAttack, margin
from dfcore.attacks.video import aggregate
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import Detector
from tests.attacks.conftest import faces

SETTINGS = {"epsilon": 6 / 255, "step_size": 1 / 255, "steps": 12}


def videos(seed: int, count: int = 4, frames: int = 4) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Videos whose frames change from one face to another; they come mixed."""
    first, labels = faces(seed, count)
    last, _ = faces(seed + 500, count)
    share = torch.linspace(0, 1, frames).view(frames, 1, 1, 1, 1)
    images = ((1 - share) * first + share * last).flatten(0, 1)
    return images, labels.repeat(frames), [f"video{row % count}" for row in range(count * frames)]


def harm(detector: Detector, images: torch.Tensor, labels: torch.Tensor, count: int = 4) -> torch.Tensor:
    """How far each video's mean score is on the wrong side, as log odds (V,)."""
    with torch.no_grad():
        scores = torch.sigmoid(detector(images).double()).view(-1, count).mean(0)
    return (1 - 2 * labels[:count]) * torch.logit(scores)


def run(
    attack: VideoAttack, detector: Detector, batch: tuple[torch.Tensor, torch.Tensor, list[str]]
) -> torch.Tensor:
    images, labels, ids = batch
    return attack(detector, images, labels, video_ids=ids, generator=torch.Generator().manual_seed(0))


def test_every_frame_of_a_video_gets_the_same_change(trained: Detector) -> None:
    batch = videos(120)
    images = batch[0] * 0.8 + 0.1  # away from the box, which would cut the change
    delta = (run(ConsistentVideo(**SETTINGS), trained, (images, *batch[1:])) - images).view(4, 4, -1)
    assert float((delta - delta[:1]).abs().max()) < 1e-6
    assert float((delta[:, 0] - delta[:, 1]).abs().max()) > 1 / 255


def test_keyframes_move_the_change_smoothly(trained: Detector) -> None:
    batch = videos(121, frames=5)
    images = batch[0] * 0.8 + 0.1
    attack = ConsistentVideo(**SETTINGS, keyframes=2)
    delta = (run(attack, trained, (images, *batch[1:])) - images).view(5, 4, -1)
    torch.testing.assert_close(delta[2], (delta[0] + delta[4]) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(delta[1], 0.75 * delta[0] + 0.25 * delta[4], atol=1e-6, rtol=0)
    assert float((delta[0] - delta[4]).abs().max()) > 1 / 255


def test_more_freedom_never_helps_the_detector(trained: Detector) -> None:
    batch = videos(122, count=4, frames=4)
    clean = harm(trained, batch[0], batch[1])
    one = harm(trained, run(ConsistentVideo(**SETTINGS), trained, batch), batch[1])
    free = harm(trained, run(FreeVideo(**SETTINGS), trained, batch), batch[1])
    assert bool((one > clean + 1).all())
    assert free.mean() > one.mean()
    often = FreeVideo(**SETTINGS, restarts=3)
    assert bool((harm(trained, run(often, trained, batch), batch[1]) >= free - 1e-5).all())


def test_the_aggregate_is_what_counts(trained: Detector) -> None:
    """The worst step is chosen by the video's mean, not frame by frame, and it is as good as PGD's."""
    batch = videos(123)
    images, labels, _ = batch
    free = run(FreeVideo(**SETTINGS), trained, batch)
    by_frame = PGD(**SETTINGS)(trained, images, labels, generator=torch.Generator().manual_seed(0))
    difference = harm(trained, free, labels) - harm(trained, by_frame, labels)
    assert float(difference.abs().max()) < 0.1
    alone = torch.stack([
        run(FreeVideo(**SETTINGS), trained, (images[row : row + 1], labels[row : row + 1], ["x"]))[0]
        for row in range(2)
    ])  # fmt: skip
    with torch.no_grad():
        gap = margin(trained, alone, labels[:2], 0.5) - margin(trained, by_frame[:2], labels[:2], 0.5)
    assert float(gap.abs().max()) < 0.1


def test_the_aggregate_is_the_log_odds_of_the_mean_score() -> None:
    outside = torch.full((5, 2), -torch.inf)
    outside[[0, 2, 4], 0] = outside[[1, 3], 1] = 0
    logits = torch.tensor([-10.0, 0.3, 1.0, -0.7, 1.0], requires_grad=True)
    found, counts = aggregate(logits, outside)
    scores = torch.sigmoid(logits.double())
    expected = torch.stack([scores[[0, 2, 4]].mean(), scores[[1, 3]].mean()]).logit()
    torch.testing.assert_close(found.double(), expected)
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(counts, slope)
    # where every score rounds to 1 the aggregate still says how far
    far, counts = aggregate(torch.tensor([40.0, 30.0, 40.0, 30.0, 40.0]), outside)
    torch.testing.assert_close(far, torch.tensor([40.0, 30.0]))
    assert bool((counts > 0).all())


class Divided(nn.Module):
    """Brightness moves the first frame, taken for real already, further down; the others it moves up."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = (images - 0.5).mean((1, 2, 3)) * 255
        return torch.where(torch.arange(len(images)) == 0, -6 - 2 * level, 1 + 0.5 * level)


def test_a_frame_that_is_won_already_does_not_make_up_for_the_others() -> None:
    """By the mean logit one change for all frames would go where the first falls furthest."""
    images, labels = torch.full((4, 3, 8, 8), 0.5), torch.ones(4, dtype=torch.long)
    attack = ConsistentVideo(epsilon=6 / 255, step_size=0.5 / 255, steps=12)
    found = attack(Divided(), images, labels, video_ids=["one"] * 4)
    assert float(torch.sigmoid(Divided()(images)).mean()) > 0.5
    assert float(torch.sigmoid(Divided()(found)).mean()) < 0.45


def test_ids_may_be_numbers(trained: Detector) -> None:
    images, labels, ids = videos(124)
    numbers = torch.tensor([int(name[-1]) for name in ids])
    attack = ConsistentVideo(**SETTINGS)
    found = attack(trained, images, labels, video_ids=numbers, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, run(attack, trained, (images, labels, ids)))


def test_bad_input_is_refused(trained: Detector) -> None:
    images, labels, ids = videos(125)
    attack = ConsistentVideo(**SETTINGS)
    with pytest.raises(ConfigError, match="video_ids"):
        attack(trained, images, labels)
    with pytest.raises(ConfigError, match="video_ids"):
        attack.craft(trained, images, labels)
    with pytest.raises(ShapeError, match="expected 16 video_ids"):
        attack(trained, images, labels, video_ids=ids[:-1])
    with pytest.raises(ConfigError, match="one label for each video"):
        attack(trained, images, labels, video_ids=["same"] * 16)
    with pytest.raises(ShapeError, match="divide by 255"):
        attack(trained, images * 255, labels, video_ids=ids)
