"""Attacks on a two-class detector, in [0, 1] pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from dfcore.attacks.apgd import APGD
from dfcore.attacks.autoattack import AutoAttackBinary, AutoAttackResult
from dfcore.attacks.blur import PixelBlur
from dfcore.attacks.channels import H264, JPEG, AnyChannel, Chain, Channel, GaussianBlur, Resize
from dfcore.attacks.eot import EOT, EOTDetector
from dfcore.attacks.fab import FAB
from dfcore.attacks.flow import Flow
from dfcore.attacks.generator import BlurGenerator
from dfcore.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from dfcore.attacks.l2 import CWL2, PGDL2
from dfcore.attacks.learned import JointMove, LearnedAttack, Player
from dfcore.attacks.noise import RandomNoise
from dfcore.attacks.norms import NORMS, Budget, Norm
from dfcore.attacks.square import Square
from dfcore.attacks.template import Attack, NormAttack, Threat, margin
from dfcore.attacks.torchattacks_adapter import TorchAttacks, TwoLogits, lend_randomness
from dfcore.attacks.transfer import Ensemble, Transfer
from dfcore.attacks.unet import UNetAttack
from dfcore.attacks.universal import Universal
from dfcore.attacks.video import ConsistentVideo, FreeVideo, VideoAttack
from dfcore.config import suggest
from dfcore.errors import ConfigError

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CWL2",
    "EOT",
    "FAB",
    "FGSM",
    "H264",
    "JPEG",
    "MIFGSM",
    "NORMS",
    "PGD",
    "PGDL2",
    "AnyAttack",
    "AnyChannel",
    "Attack",
    "AutoAttackBinary",
    "AutoAttackResult",
    "BlurGenerator",
    "Budget",
    "Chain",
    "Channel",
    "ConsistentVideo",
    "EOTDetector",
    "Ensemble",
    "Flow",
    "FreeVideo",
    "GaussianBlur",
    "JointMove",
    "LearnedAttack",
    "Norm",
    "NormAttack",
    "PixelBlur",
    "Player",
    "RandomNoise",
    "Resize",
    "Square",
    "Threat",
    "TorchAttacks",
    "Transfer",
    "TwoLogits",
    "UNetAttack",
    "Universal",
    "VideoAttack",
    "build_attack",
    "lend_randomness",
    "margin",
]

# One line for each family; the registry below is read from it.
AnyAttack = Annotated[
    APGD
    | AutoAttackBinary
    | BIM
    | BlurGenerator
    | CWL2
    | ConsistentVideo
    | EOT
    | FAB
    | FGSM
    | Flow
    | FreeVideo
    | MIFGSM
    | PGD
    | PGDL2
    | PixelBlur
    | RandomNoise
    | Square
    | TorchAttacks
    | Transfer
    | UNetAttack
    | Universal,
    Field(discriminator="kind"),
]  # fmt: skip
"""An attack as a field of a configuration; `kind` says which."""

ATTACKS: dict[str, type[Attack]] = {
    family.model_fields["kind"].default: family for family in get_args(get_args(AnyAttack)[0])
}
"""Every family by its kind."""


def build_attack(settings: Mapping[str, Any]) -> Attack:
    """Build an attack from plain data.

    Args:
        settings: `kind` and the family's own settings.

    Raises:
        ConfigError: the kind or a setting is unknown, or a value does not fit.

    >>> build_attack({"kind": "pgd", "epsilon": "4/255", "steps": 5}).describe()["epsilon"]
    '4/255'
    """
    kind = str(settings.get("kind", ""))
    if kind not in ATTACKS:
        raise ConfigError(f"unknown attack {kind!r}{suggest(kind, ATTACKS)}")
    return ATTACKS[kind].parse(dict(settings), source=f"attack {kind}")
