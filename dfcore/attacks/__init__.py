"""Attacks on a two-class detector, in [0, 1] pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from dfcore.attacks.gradient import FGSM, PGD
from dfcore.attacks.noise import RandomNoise
from dfcore.attacks.template import Attack, margin
from dfcore.config import suggest
from dfcore.errors import ConfigError

__all__ = ["ATTACKS", "FGSM", "PGD", "AnyAttack", "Attack", "RandomNoise", "build_attack", "margin"]

AnyAttack = Annotated[FGSM | PGD | RandomNoise, Field(discriminator="kind")]
"""An attack as a field of a configuration; `kind` says which."""

ATTACKS: dict[str, type[Attack]] = {"fgsm": FGSM, "noise": RandomNoise, "pgd": PGD}


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
