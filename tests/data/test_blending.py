from __future__ import annotations

import numpy as np
import torch
from skimage.data import astronaut
from skimage.transform import resize

from dfcore.data.blending import face_masks, is_blendable, self_blend
from tests.data.crop_stores import FACE

SIDE = 64


def faces(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    face = resize(astronaut()[40:240, 120:320], (SIDE, SIDE), anti_aliasing=True)
    image = torch.from_numpy((face * 255).round() / 255).permute(2, 0, 1).float()
    return image.repeat(count, 1, 1, 1), torch.from_numpy(FACE * SIDE).repeat(count, 1, 1)


def test_fakes_repeat_differ_and_stay_pictures() -> None:
    images, landmarks = faces()
    kept, state = images.clone(), torch.random.get_rng_state()
    fakes, masks = self_blend(images, landmarks, torch.Generator().manual_seed(0))
    again, _ = self_blend(images, landmarks, torch.Generator().manual_seed(0))
    assert torch.equal(fakes, again)
    assert torch.equal(images, kept)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fakes.shape == images.shape
    assert masks.shape == (8, 1, SIDE, SIDE)
    for values in (fakes, masks):
        assert 0 <= float(values.min()) <= float(values.max()) <= 1
    levels = fakes * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert len({tuple(fake.flatten().tolist()) for fake in fakes}) == 8, "two fakes of a crop are equal"
    assert all(not torch.equal(fake, images[0]) for fake in fakes)


def test_a_fake_is_one_picture_inside_the_mask_and_another_outside() -> None:
    images, landmarks = faces(32)
    fakes, masks = self_blend(images, landmarks, torch.Generator().manual_seed(1))
    outside = (masks == 0).expand(-1, 3, -1, -1)
    untouched = [torch.equal(fakes[i][outside[i]], images[i][outside[i]]) for i in range(32)]
    assert 8 <= sum(untouched) <= 24, "source and target were not swapped about half of the time"
    for i in np.flatnonzero(untouched):
        assert not torch.equal(fakes[i], images[i])
    peaks = {round(float(mask.max()), 2) for mask in masks}
    assert peaks <= {0.25, 0.5, 0.75, 1.0}
    assert len(peaks) > 1


def test_another_crop_in_the_batch_changes_nothing() -> None:
    images, landmarks = faces(3)
    alone, _ = self_blend(images, landmarks, torch.Generator().manual_seed(0))
    images[1:] = images[1:].flip(2)
    landmarks[1:] += 3
    beside, _ = self_blend(images, landmarks, torch.Generator().manual_seed(0))
    torch.testing.assert_close(beside[0], alone[0], atol=1e-6, rtol=0)


def test_masks_cover_the_face_and_follow_it() -> None:
    _, landmarks = faces(64)
    masks = face_masks(landmarks, (SIDE, SIDE), torch.Generator().manual_seed(0))[:, 0]
    assert 0 <= float(masks.min()) <= float(masks.max()) <= 1.001
    middle = masks[:, int(0.5 * SIDE), int(0.5 * SIDE)]
    assert float(middle.min()) > 0.99, "the nose lies outside"
    assert float(masks[:, 0, 0].max()) < 0.01, "a corner lies inside"
    areas = masks.mean((1, 2))
    assert 0.1 < float(areas.min()) < float(areas.max()) < 0.6
    assert float(areas.std()) > 0.02, "outlines do not vary"
    soft = ((masks > 0.05) & (masks < 0.95)).float().mean((1, 2))
    assert float(soft.min()) > 0.01, "a border is hard"
    # a face lying on its side: the mask turns with it
    turned = torch.stack([landmarks[..., 1], SIDE - landmarks[..., 0]], dim=-1)
    flat = face_masks(turned, (SIDE, SIDE), torch.Generator().manual_seed(0))[:, 0].mean(0)
    upright = masks.mean(0)
    assert float((flat - upright.rot90()).abs().mean()) < 0.05


def test_only_faces_with_usable_landmarks_are_blended() -> None:
    whole = FACE * SIDE
    unknown, upside_down, point = whole.copy(), whole[:, :] * [1, -1] + [0, SIDE], whole.copy()
    unknown[2] = np.nan
    point[:] = SIDE / 2
    outside = whole + SIDE
    given = np.stack([whole, unknown, upside_down, point, outside]).astype(np.float32)
    assert is_blendable(given, SIDE).tolist() == [True, False, False, False, False]
