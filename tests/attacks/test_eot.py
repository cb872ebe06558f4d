from __future__ import annotations

import pytest
import torch

from dfcore.attacks import (
    EOT,
    FGSM,
    H264,
    JPEG,
    PGD,
    Chain,
    EOTDetector,
    GaussianBlur,
    PixelBlur,
    Resize,
    build_attack,
    margin,
)
from dfcore.errors import ConfigError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.properties import attacked, batch, check_ball
from tests.attacks.traits import check_sound, mutant
from tests.tolerances import TOLERANCE

SOFT = GaussianBlur(sigma=(0.6, 0.9))


def test_the_logit_is_the_mean_over_draws(detector: Detector) -> None:
    images, _ = batch(0, 4)
    detector.eval()
    behind = EOTDetector(detector, [SOFT, Resize(factors=(0.5,))], 5, torch.Generator().manual_seed(3))
    behind_again = EOTDetector(detector, [SOFT, Resize(factors=(0.5,))], 5, torch.Generator().manual_seed(3))
    draws = behind_again.draws
    first = int(torch.randint(2, (), generator=draws))
    logits = [detector(behind_again.channels[(first + n) % 2](images, draws)) for n in range(5)]
    torch.testing.assert_close(behind(images), torch.stack(logits).mean(0), **TOLERANCE[torch.float32])
    assert not torch.equal(behind(images), behind(images)), "draws are fresh"


def test_without_a_channel_that_changes_anything_it_is_the_detector(detector: Detector) -> None:
    images, labels = batch(0, 4)
    detector.eval()
    behind = EOTDetector(detector, [lambda images, generator: images], 3)
    torch.testing.assert_close(behind(images), detector(images))
    bare = FGSM(epsilon=4 / 255)(detector, images, labels)
    torch.testing.assert_close(FGSM(epsilon=4 / 255)(behind, images, labels), bare)


def _behind(
    trained: Detector, images: torch.Tensor, labels: torch.Tensor, channels: tuple[object, ...]
) -> float:
    """Mean margin over many draws that no attack saw."""
    judge = EOTDetector(trained, channels, 32, torch.Generator().manual_seed(99))  # type: ignore[arg-type]
    with torch.no_grad():
        return float(margin(judge, images, labels, 0.5).mean())


@pytest.mark.parametrize(
    "channels",
    [
        (SOFT,),
        (JPEG(quality=(40, 70)),),
        (H264(crf=(28, 34)),),
        (Chain(channels=(Resize(factors=(0.75,)), JPEG(quality=(60, 80)))),),
    ],
    ids=["blur", "jpeg", "h264", "resize-jpeg"],
)
def test_beats_the_bare_attack_behind_the_channel(trained: Detector, channels: tuple[object, ...]) -> None:
    images, labels = faces(5, 16)
    pgd = PGD(epsilon=8 / 255, step_size=2 / 255, steps=8, random_start=False, keep_best=False)
    seed = torch.Generator().manual_seed(0)
    bare = _behind(trained, pgd(trained, images, labels, generator=seed), labels, channels)
    through = EOT(attack=pgd, channels=channels, samples=8)  # type: ignore[arg-type]
    found = through(trained, images, labels, generator=torch.Generator().manual_seed(0))
    assert _behind(trained, found, labels, channels) > bare + 0.1


def test_sound_and_within_the_inner_budget(detector: Detector) -> None:
    inner = PGD(epsilon=4 / 255, step_size=2 / 255, steps=3)
    attack = EOT(attack=inner, channels=(SOFT, JPEG()), samples=2)
    check_sound(attack, detector)
    images, labels = batch(0, 4)
    found = attacked(attack, detector, images, labels)
    assert float((found - images).abs().max()) <= 4 / 255 + 1e-6
    check_ball(EOT(attack=inner).attack, detector, images, labels)
    still = EOT(attack=inner.model_copy(update={"epsilon": 0.0}), channels=(SOFT,))
    assert torch.equal(attacked(still, detector, images, labels), images)


def test_any_attack_runs_through_it(detector: Detector) -> None:
    images, labels = batch(0, 4)
    attack = EOT(attack=PixelBlur(steps=2, keep_best=False), channels=(JPEG(),), samples=1)
    assert not torch.equal(attacked(attack, detector, images, labels), images)


def test_settings_travel_as_plain_data() -> None:
    attack = EOT(attack=FGSM(epsilon=2 / 255), channels=(Chain(channels=(Resize(), JPEG())), H264()))
    assert build_attack(attack.describe()) == attack
    assert attack.threat_model == FGSM(epsilon=2 / 255).threat_model
    with pytest.raises(ConfigError, match="did you mean 'pgd'"):
        build_attack({"kind": "eot", "attack": {"kind": "pdg"}})
    with pytest.raises(ConfigError, match="channels"):
        build_attack({"kind": "eot", "channels": []})
    for kind in ("eot", "transfer", "unet", "universal", "video-aggregate"):
        with pytest.raises(ConfigError, match=f"asks the detector.*got {kind}"):
            build_attack({"kind": "eot", "attack": {"kind": kind}})


def test_a_mutant_without_channels_dies(trained: Detector) -> None:
    images, labels = faces(5, 16)
    inner = PGD(epsilon=8 / 255, step_size=2 / 255, steps=8, random_start=False, keep_best=False)
    sound = EOT(attack=inner, channels=(SOFT,), samples=2)
    bare = mutant(sound, perturb=lambda self, *arguments: self.attack.perturb(*arguments))
    reached = []
    for attack in (sound, bare):
        found = attack(trained, images, labels, generator=torch.Generator().manual_seed(0))
        reached.append(_behind(trained, found, labels, (SOFT,)))
    assert reached[0] > reached[1] + 0.1
