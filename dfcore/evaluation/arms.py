"""Attacks made ready: learned ones fitted on training identities, transferred ones given their surrogates."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dfcore.attacks import Attack, LearnedAttack, TorchAttacks, Transfer, Universal, VideoAttack
from dfcore.data import Crops
from dfcore.errors import ConfigError, DataError
from dfcore.evaluation.cache import Cache
from dfcore.evaluation.corpus import Corpus, crops_digest
from dfcore.evaluation.referee import Referee, check_installed
from dfcore.evaluation.scenarios import Scenario
from dfcore.models import Detector
from dfcore.provenance import digest_json

__all__ = [
    "Arms",
    "affordable",
    "check_arms",
    "craft",
    "derive_seed",
    "detector_digest",
    "fit_attack",
    "fit_passes",
]

logger = logging.getLogger(__name__)

_FIT_CROPS = 256  # of each class; they lie in memory as floats
# pixels that the fitting of one attack may see on a CPU: 300 batches of 32 crops at 128 px; of the half hour
# that 300 take at 224 px, with an EfficientNet-B0 on one core, a third
_CPU_PIXELS = 300 * 32 * 128 * 128


def check_arms(
    detector: Detector,
    scenarios: Sequence[Scenario],
    corpora: Mapping[str, Corpus],
    training: Crops | None,
    surrogates: Sequence[Detector],
) -> None:
    """Require everything that the scenarios' attacks need, before any of them runs.

    Raises:
        ConfigError: no training crops, surrogates or referee's library where a scenario needs them; a
            surrogate that is the detector itself.
        DataError: training crops of one class, or of groups that are tested on.
    """
    learned = [scenario.name for scenario in scenarios if scenario.needs_training]
    if learned and training is None:
        raise ConfigError(
            f"expected crops of training identities to fit the attacks of {', '.join(learned)}, got none; "
            "give a training store or choose other scenarios"
        )
    moved = [scenario.name for scenario in scenarios if scenario.needs_surrogates]
    if moved and not surrogates:
        raise ConfigError(
            f"expected a surrogate detector for {', '.join(moved)}, got none; give one or choose other "
            "scenarios"
        )
    digest = detector_digest(detector)
    if moved and any(detector_digest(other) == digest for other in surrogates):
        raise ConfigError(
            "expected surrogates other than the detector itself, which would be a white-box attack; "
            "give another detector"
        )
    attacks = [scenario.attack for scenario in scenarios]
    libraries = {attack.library for attack in attacks if isinstance(attack, Referee)}
    check_installed([*libraries, *("torchattacks" for attack in attacks if isinstance(attack, TorchAttacks))])
    if learned and training is not None:
        _check_training(training, corpora)


def _check_training(training: Crops, corpora: Mapping[str, Corpus]) -> None:
    if np.unique(training.labels).tolist() != [0, 1]:
        raise DataError("expected training crops of both classes to fit attacks on, got one; check the split")
    for name, corpus in corpora.items():
        shared = sorted(set(corpus.crops.group_ids.tolist()) & set(training.group_ids.tolist()))
        if shared:
            raise DataError(
                f"expected attacks to be fitted on identities that {name!r} does not test, got "
                f"{len(shared)} shared groups: {', '.join(shared[:3])}; give the training split"
            )


def detector_digest(detector: Detector) -> str:
    """Return the SHA-256 over every tensor's name, shape and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(detector.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def affordable(
    scenarios: Sequence[Scenario], training: Crops | None, device: torch.device
) -> tuple[Scenario, ...]:
    """Shorten the fitting of learned attacks where there is no GPU and crops are large; it is told.

    The record holds the scenarios as they were run.
    """
    if training is None or device.type != "cpu":
        return tuple(scenarios)
    return tuple(
        _shortened(item, training.images[0, ..., 0].size) if item.needs_training else item
        for item in scenarios
    )


def _shortened(scenario: Scenario, pixels: int) -> Scenario:
    attack: Any = scenario.attack
    name = "fit_steps" if isinstance(attack, LearnedAttack) else "steps"
    asked: int = getattr(attack, name)
    updates = min(asked, max(1, _CPU_PIXELS // (attack.batch_size * pixels)))
    if updates == asked:
        return scenario
    logger.warning(
        "%s is fitted in %d updates of %d, as there is no GPU: it may be weaker than it could be",
        scenario.name, updates, asked,
    )  # fmt: skip
    return scenario.model_copy(update={"attack": attack.model_copy(update={name: updates})})


def fit_passes(scenarios: Sequence[Scenario]) -> int:
    """Estimate the forward passes over a crop that fitting the scenarios' attacks takes."""
    distinct: dict[str, int] = {}
    for scenario in scenarios:
        attack: Any = scenario.attack
        if scenario.needs_training:
            updates = getattr(attack, "fit_steps", None) or attack.steps
            distinct[digest_json(attack.model_dump(mode="json"))] = updates * attack.batch_size
    return sum(distinct.values())


def derive_seed(seed: int, *names: str) -> int:
    """Return a seed of its own for what the names say."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big")


class Arms:
    """The attacks of one evaluation.

    Args:
        detector: what they are made on, batch norm folded.
        training: what learned attacks are fitted on, or None.
        surrogates: what transferred attacks are made on.
        seed: of the evaluation.
        cache: keeps fitted attacks.
        advance: called with the number of forward passes over a crop that fitting has done.
    """

    def __init__(
        self,
        detector: Detector,
        training: Crops | None,
        surrogates: Sequence[Detector],
        seed: int,
        cache: Cache,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._detector = detector
        self._training = training
        self._surrogates = surrogates
        self._seed = seed
        self._cache = cache
        self._advance = advance
        self._fitted: dict[str, LearnedAttack | Universal] = {}
        self._digests = {
            "training": None if training is None else crops_digest(training),
            "surrogates": [detector_digest(other) for other in surrogates],
        }

    def depends_on(self, scenario: Scenario) -> dict[str, Any]:
        """Return digests of what else the scenario's attack depends on."""
        found: dict[str, Any] = {}
        if scenario.needs_training:
            found["training"] = self._digests["training"]
        if scenario.needs_surrogates:
            found["surrogates"] = self._digests["surrogates"]
        return found

    def ready(self, scenario: Scenario) -> Attack:
        """Return the scenario's attack, fitted and loaded; each distinct one is fitted once."""
        attack: Attack | None = scenario.attack
        assert attack is not None
        if scenario.needs_surrogates:
            assert isinstance(attack, Transfer)
            return attack.using(self._surrogates)
        if not scenario.needs_training:
            return attack
        assert isinstance(attack, LearnedAttack | Universal)
        key = digest_json(attack.model_dump(mode="json"))
        if key not in self._fitted:
            self._fitted[key] = self._fit(attack, key)
        return self._fitted[key]

    def _fit(self, attack: LearnedAttack | Universal, key: str) -> LearnedAttack | Universal:
        folder = self._cache.path(fitted=attack.model_dump(mode="json"), training=self._digests["training"])
        kept = None if folder is None else folder / "fitted.safetensors"
        if kept is not None and kept.is_file():
            return attack.model_copy(update={"weights": kept})
        assert self._training is not None
        seed = derive_seed(self._seed, "fit", key)
        fitted = fit_attack(
            attack, self._detector, self._training, seed, lambda *_: self._advance(attack.batch_size)
        )
        return fitted if kept is None else fitted.save(kept)


def fit_attack(
    attack: LearnedAttack | Universal,
    detector: Detector,
    training: Crops,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> LearnedAttack | Universal:
    """Fit an attack against a detector on at most 256 crops of each class, evenly spread.

    Raises:
        DataError, ConfigError: one class is missing.
    """
    device = detector.mean.device
    rows = [np.flatnonzero(training.labels == label) for label in (0, 1)]
    chosen = np.concatenate(
        [members[np.linspace(0, len(members) - 1, min(_FIT_CROPS, len(members))).astype(np.int64)]
         for members in rows if len(members)]
    )  # fmt: skip
    images = training.tensor(device, chosen)
    labels = torch.from_numpy(training.labels[chosen]).to(device)
    generator = torch.Generator(device=device).manual_seed(seed)
    return attack.fit(
        detector, images, labels,
        threshold=detector.threshold, generator=generator, progress=progress,
    )  # fmt: skip


def craft(
    attack: Attack,
    detector: Detector,
    images: torch.Tensor,
    labels: torch.Tensor,
    videos: Sequence[object],
    generator: torch.Generator,
) -> torch.Tensor:
    """Attack a batch at the detector's threshold; an attack on videos is told which crop is of which."""
    if isinstance(attack, VideoAttack):
        return attack(
            detector, images, labels,
            threshold=detector.threshold, generator=generator, video_ids=list(videos),
        )  # fmt: skip
    return attack(detector, images, labels, threshold=detector.threshold, generator=generator)
