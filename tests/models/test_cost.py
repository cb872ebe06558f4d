from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from dfcore.errors import ConfigError
from dfcore.models import BACKBONES, DETECTORS, DetectorConfig, build_detector, detector_cost
from dfcore.models.build import outline_detector
from rampart.models import app

# (millions of parameters, thousand millions of operations): a multiply-add counts as two
PUBLISHED = {
    "efficientnet_b0": (4.01, 0.77),  # 5.29 M with 1000 classes, 0.39 G multiply-adds
    "xception": (20.81, 16.7),  # 22.86 M with 1000 classes, 8.4 G multiply-adds
    "efficientvit": (7.57, 1.13),
    "efficientvit_published": (83.1, 8.69),
    "resnet10_narrow": (0.69, 0.026),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_work_of_each_detector(name: str) -> None:
    cost = detector_cost(DETECTORS[name])
    assert cost.parameters / 1e6 == pytest.approx(PUBLISHED[name][0], rel=0.01)
    assert cost.flops / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.02)


def test_counts_are_those_of_the_real_network() -> None:
    config = DetectorConfig(backbone="resnet10_narrow", image_size=64)
    detector = build_detector(config)
    assert detector_cost(config).parameters == sum(p.numel() for p in detector.parameters())
    outline = outline_detector(config)
    assert outline.state_dict().keys() == detector.state_dict().keys()
    assert all(value.device == torch.device("meta") for value in outline.state_dict().values())


def test_work_grows_with_the_image() -> None:
    small, large = (
        detector_cost(DetectorConfig(backbone="resnet10_narrow", image_size=size)) for size in (64, 128)
    )
    assert large.flops / small.flops == pytest.approx(4, rel=0.01)


def test_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match="unknown backbone"):
        detector_cost(DetectorConfig(backbone="resnet10tt"))


def test_the_list_names_every_detector_and_what_it_costs() -> None:
    found = CliRunner().invoke(app, ["list", "--json"])
    rows = json.loads(found.stdout)
    detectors = {row["backbone"]: row for row in rows if row["recipe"] is None}
    assert set(BACKBONES) | {"efficientnet_b0"} <= set(detectors)
    assert detectors["xception"]["image_size"] == 299
    assert all(row["parameters"] > 0 and row["flops"] > 0 for row in rows)
    table = CliRunner().invoke(app, ["list"]).stdout.splitlines()
    assert table[0].split() == ["recipe", "defence", "backbone", "image_size", "parameters", "flops"]
    assert len(table) == len(rows) + 1
    assert any("efficientvit_published" in line and "83.1 M" in line for line in table)
