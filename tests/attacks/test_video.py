from __future__ import annotations

import pytest
import torch

from dfcore.attacks import PGD, ConsistentVideo, FreeVideo, VideoAttack, margin
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


def aggregate(detector: Detector, images: torch.Tensor, labels: torch.Tensor, count: int = 4) -> torch.Tensor:
    with torch.no_grad():
        return margin(detector, images, labels, 0.5).view(-1, count).mean(0)


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
    clean = aggregate(trained, batch[0], batch[1])
    one = aggregate(trained, run(ConsistentVideo(**SETTINGS), trained, batch), batch[1])
    free = aggregate(trained, run(FreeVideo(**SETTINGS), trained, batch), batch[1])
    assert bool((one > clean + 1).all())
    assert free.mean() > one.mean()
    often = FreeVideo(**SETTINGS, restarts=3)
    assert bool((aggregate(trained, run(often, trained, batch), batch[1]) >= free - 1e-5).all())


def test_the_aggregate_is_what_counts(trained: Detector) -> None:
    """The worst step is chosen by the video's mean, not frame by frame, and it is as good as PGD's."""
    batch = videos(123)
    images, labels, _ = batch
    free = run(FreeVideo(**SETTINGS), trained, batch)
    by_frame = PGD(**SETTINGS)(trained, images, labels, generator=torch.Generator().manual_seed(0))
    difference = aggregate(trained, free, labels) - aggregate(trained, by_frame, labels)
    assert float(difference.abs().max()) < 0.1
    alone = torch.stack([
        run(FreeVideo(**SETTINGS), trained, (images[row : row + 1], labels[row : row + 1], ["x"]))[0]
        for row in range(2)
    ])  # fmt: skip
    with torch.no_grad():
        gap = margin(trained, alone, labels[:2], 0.5) - margin(trained, by_frame[:2], labels[:2], 0.5)
    assert float(gap.abs().max()) < 0.1


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
