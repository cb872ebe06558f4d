"""Suites: what is in them, how some of it is chosen, and what is refused before work starts."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfcore.attacks import EOT, FGSM, H264, JPEG, PGD, Chain, Resize, Transfer, UNetAttack
from dfcore.data import Crops
from dfcore.errors import ConfigError, DataError
from dfcore.evaluation import SUITES, Evidence, Scenario, evaluate, get_suite
from dfcore.evaluation.arms import affordable
from dfcore.models import Detector
from tests.evaluation.conftest import build_tiny, make_crops, train


def test_each_suite_holds_the_one_before() -> None:
    names = {suite: [scenario.name for scenario in scenarios] for suite, scenarios in SUITES.items()}
    assert set(names["quick"]) < set(names["standard"]) < set(names["full"])
    assert all(get_suite(list(scenarios)) == scenarios for scenarios in SUITES.values())
    by_name = {scenario.name: scenario for scenario in SUITES["full"]}
    for scenario in (*SUITES["quick"][1:], *SUITES["standard"][1:]):
        assert by_name[scenario.name] == scenario


def test_the_full_suite_has_every_attack_that_is_asked_for() -> None:
    kinds = {scenario.kind for scenario in SUITES["full"]}
    assert {
        "clean", "jpeg", "h264", "resize", "gaussian_blur", "noise", "fgsm", "bim", "pgd", "blur", "flow",
        "autoattack-binary", "unet", "eot", "transfer", "square", "video-consistent", "video-aggregate",
        "universal", "referee",
    } == kinds  # fmt: skip
    for prefix in ("fgsm", "bim10", "pgd20", "autoattack"):
        budgets = [s.epsilon for s in SUITES["full"] if s.name.startswith(f"{prefix}_") and not s.channel]
        assert {round((epsilon or 0) * 255) for epsilon in budgets} >= {1, 2, 4, 8}


def test_settings_survive_json() -> None:
    for scenario in SUITES["full"]:
        assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario


def test_a_threat_model_says_who_attacks_and_what_follows() -> None:
    by_name = {scenario.name: scenario.threat_model(3).model_dump(mode="json") for scenario in SUITES["full"]}
    assert by_name["clean"]["knowledge"] == by_name["jpeg_50"]["knowledge"] == "none"
    assert by_name["jpeg_50"]["channel"] == "jpeg"
    assert by_name["noise_8_255"]["knowledge"] == "noise"
    pgd = by_name["pgd20_2_255"]
    assert (pgd["knowledge"], pgd["norm"], pgd["epsilon"], pgd["steps"], pgd["seed"]) == (
        "white-box", "linf", "2/255", 20, 3
    )  # fmt: skip
    assert (by_name["unet_jpeg_50"]["attack"], by_name["unet_jpeg_50"]["channel"]) == ("unet", "jpeg")
    assert by_name["square5000_8_255"]["queries"] == 5000
    assert by_name["transfer_8_255"]["knowledge"] == "transfer"
    assert by_name["blur_2px"]["norm"] is None
    chain = Scenario(name="x", channel=Chain(channels=(Resize(), H264())))
    assert chain.threat_model(0).channel == "resize+h264"
    assert chain.needs_videos


def test_some_of_a_suite_keeps_what_it_builds_on_and_the_guards() -> None:
    chosen = [scenario.name for scenario in get_suite("quick", ["pgd20_4_255"])]
    assert chosen == [
        "clean", "pgd20_1_255", "pgd20_2_255", "pgd20_4_255", "pgd20_64_255", "square100_8_255"
    ]  # fmt: skip
    assert {"bim10_1_255", "fgsm_2_255", "pgd20_2_255", "autoattack_1_255"} < {
        scenario.name for scenario in get_suite("full", ["autoattack_2_255"])
    }


def test_unknown_or_unfit_suites_are_refused() -> None:
    quick = SUITES["quick"]
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        get_suite("quik")
    with pytest.raises(ConfigError, match="did you mean 'pgd20_2_255'"):
        get_suite("quick", ["pgd20_2_25"])
    with pytest.raises(ConfigError, match="clean one first"):
        get_suite(quick[1:])
    with pytest.raises(ConfigError, match="before 'pgd20_2_255', which builds on it"):
        get_suite([quick[0], *(scenario for scenario in quick if scenario.name == "pgd20_2_255")])
    larger = Scenario(name="larger", attack=FGSM(epsilon=2 / 255))
    smaller = Scenario(name="smaller", attack=PGD(epsilon=1 / 255), builds_on=("larger",))
    with pytest.raises(ConfigError, match="no larger epsilon"):
        get_suite([quick[0], larger, smaller])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "x", "role": "guard"}, "expected an attack"),
        ({"name": "X"}, "pattern"),
        ({"name": "x", "attack": {"kind": "blur"}, "builds_on": ["y"]}, "norm-bounded attack"),
        ({"name": "x", "attack": {"kind": "fgsm"}, "lipschitz": "1/255"}, "clean scenario only"),
        ({"name": "x", "attack": {"kind": "transfer", "surrogates": ["a"]}}, "without addresses"),
        ({"name": "x", "attack": {"kind": "unet", "weights": "a"}}, "without addresses and weights"),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.parse(settings)


def test_what_an_attack_needs_is_asked_for_before_any_work(
    detector: Detector, crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = SUITES["quick"][0]
    learned = (clean, Scenario(name="unet_8_255", attack=UNetAttack()))
    moved = (clean, Scenario(name="transfer_8_255", attack=Transfer()))
    out = tmp_path / "new"

    def run(suite: tuple[Scenario, ...], **given: Any) -> Evidence:
        return evaluate(detector, {"c": crops}, suite=suite, name="tiny", out=out, **given)

    with pytest.raises(ConfigError, match="training identities to fit the attacks of unet_8_255"):
        run(learned)
    with pytest.raises(DataError, match="12 shared groups: group-test-000"):
        run(learned, training=crops)
    other = make_crops(16, seed=3, prefix="train")
    with pytest.raises(DataError, match="both classes to fit attacks"):
        run(learned, training=other.subset(other.labels == 0))
    with pytest.raises(ConfigError, match="surrogate detector for transfer_8_255"):
        run(moved)
    with pytest.raises(ConfigError, match="other than the detector itself"):
        run(moved, surrogates=[detector])
    with pytest.raises(ConfigError, match="unet_8_255, unet_jpeg_50, unet_h264, universal_8_255"):
        run(SUITES["full"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the packages torchattacks, by .*rampart\[referee\]"):
        run(SUITES["standard"])
    assert not out.exists()


def test_without_a_gpu_large_crops_are_fitted_on_in_fewer_updates(caplog: pytest.LogCaptureFixture) -> None:
    fitted = [scenario for scenario in SUITES["full"] if scenario.needs_training]
    cpu, small = torch.device("cpu"), make_crops(8, seed=0)
    assert affordable(fitted, small, cpu) == tuple(fitted)
    assert not caplog.records
    large = dataclasses.replace(small, images=np.zeros((8, 224, 224, 3), dtype=np.uint8))
    by_name = {scenario.name: scenario for scenario in affordable(SUITES["full"], large, cpu)}
    assert by_name["unet_jpeg_50"].threat_model(0).fitted == 97
    assert by_name["universal_8_255"].threat_model(0).steps == 97
    assert by_name["pgd20_8_255"] in SUITES["full"]
    assert "unet_8_255 is fitted in 97 updates of 300" in caplog.text
    assert affordable(fitted, large, torch.device("cuda")) == affordable(fitted, None, cpu) == tuple(fitted)


def _small(scenario: Scenario) -> Scenario:
    """Return the scenario with hardly any steps."""
    few = {"steps": 2, "queries": 20, "fit_steps": 3, "restarts": 1, "batch_size": 8, "samples": 1}

    def shrink(attack: Any) -> Any:
        change: dict[str, Any] = {
            name: value for name, value in few.items()
            if name in type(attack).model_fields and getattr(attack, name) is not None
        }  # fmt: skip
        if isinstance(attack, EOT | Transfer):
            change["attack"] = shrink(attack.attack)
        return attack.model_copy(update=change)

    if scenario.attack is None:
        return scenario
    return scenario.model_copy(update={"attack": shrink(scenario.attack)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_scenario_of_the_full_suite_runs(
    detector: Detector, crops: Crops, tmp_path: Path, few_resamples: None
) -> None:
    suite = [_small(scenario) for scenario in SUITES["full"]]
    training = make_crops(32, seed=5, prefix="train")
    other = train(build_tiny(), training, steps=5)
    evidence = evaluate(
        detector, {"c": crops.subset(range(16)), "d": crops.subset(range(16, 32))}, suite=suite, name="tiny",
        out=tmp_path, training_groups=[], training=training, surrogates=[other], cache=tmp_path / "cache",
    )  # fmt: skip
    for scenario in suite:
        for corpus in ("c", "d"):
            found = evidence.find(scenario.name, corpus)
            assert found is not None
            assert "auc" in found.metrics, scenario.name
    assert {guard.name for guard in evidence.tripped()} <= {
        # two steps are no search
        "broken_at_large_epsilon", "iterative_beats_single_step", "white_box_beats_black_box",
        "white_box_beats_noise", "unseen_attack_agrees", "others_code_agrees", "black_box_beats_noise",
        "noise_hardly_hurts",
    }  # fmt: skip
    clean = evidence.find("clean", "c")
    assert clean is not None
    assert clean.metrics["local_lipschitz"].value > 0
    assert evidence.fitted_on is not None
    assert len(evidence.surrogates) == 1
    assert evidence.scenarios["eot_h264"] == suite[[s.name for s in suite].index("eot_h264")]
    carried = evidence.find("autoattack_8_255", "c")
    weaker = evidence.find("pgd20_8_255", "c")
    assert carried is not None
    assert weaker is not None
    assert carried.attacked < carried.n
    assert carried.metrics["accuracy"].value <= weaker.metrics["accuracy"].value
    assert JPEG().kind in {channel.kind for s in suite if (channel := s.channel) is not None}
