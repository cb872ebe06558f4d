from __future__ import annotations

from components.progress import describe
from dfcore.training import TrainingProgress

RECORD = {"epoch": 2.0, "loss": 0.25, "val_clean_auc": 0.95, "val_robust_auc": 0.7, "seconds": 3.0}


def test_a_line_says_loss_auc_rate_and_time_left() -> None:
    now = TrainingProgress(2, 10, 25, 100, 812.4, 4000.0, 0.5, None, RECORD)
    assert describe(now) == (
        "epoch 3/10, step 25/100, loss 0.500, last AUC 0.950 clean, 0.700 robust, 812 crops/s, 1 h 7 min left"
    )
    first = TrainingProgress(0, 10, 1, 100, 812.4, 119.0)
    assert describe(first) == "epoch 1/10, step 1/100, 812 crops/s, 119 s left"


def test_the_end_of_an_epoch_says_its_figures_and_why_it_was_the_last() -> None:
    now = TrainingProgress(2, 10, 20, 100, 812.4, 150.0, 0.25, RECORD, RECORD)
    line = "epoch 2/10 done: loss 0.250, val_clean_auc 0.950, val_robust_auc 0.700, 812 crops/s, 2 min left"
    assert describe(now) == line
    stopped = TrainingProgress(2, 10, 20, 100, 812.4, 150.0, 0.25, RECORD, RECORD, "early stop: no rise")
    assert describe(stopped) == f"{line}; early stop: no rise"
