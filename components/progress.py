"""What a step says while it runs: one line `[step] text` on stderr, which KFP streams into its log."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfcore.training import TrainingProgress

__all__ = ["counter", "say", "training"]

_SECONDS_BETWEEN_LINES = 1.0
_SHOWN = ("loss", "auc", "skipped_steps")
_MINUTE = 60


def say(step: str, text: str) -> None:
    """Write one line of progress.

    Args:
        step: what runs, e.g. "train robust".
        text: what it does now.
    """
    sys.stderr.write(f"[{step}] {text}\n")
    sys.stderr.flush()


def counter(step: str, unit: str) -> Callable[[int, int], None]:
    """Return a callback for (done, total) that writes at most one line a second, and always the last one."""
    is_due = _every_second()

    def report(done: int, total: int) -> None:
        if is_due() or done >= total:
            say(step, f"{done}/{total} {unit}")

    return report


def training(step: str) -> "Callable[[TrainingProgress], None]":
    """Return a callback that writes at most one line a second, and always the end of an epoch."""
    is_due = _every_second()

    def report(now: "TrainingProgress") -> None:
        if now.record is not None or is_due():
            say(step, describe(now))

    return report


def describe(now: "TrainingProgress") -> str:
    """Return where a training run stands, in one line."""
    rate = f"{now.images_per_second:.0f} crops/s, {_duration(now.eta_seconds)} left"
    if now.record is not None:
        figures = [f"{name} {value:.3f}" for name, value in now.record.items() if name.endswith(_SHOWN)]
        text = f"epoch {now.epoch}/{now.epochs} done: {', '.join(figures)}, {rate}"
        return text if now.stopped is None else f"{text}; {now.stopped}"
    parts = [f"epoch {min(now.epoch + 1, now.epochs)}/{now.epochs}, step {now.step}/{now.steps}"]
    if now.loss is not None:
        parts.append(f"loss {now.loss:.3f}")
    if now.latest is not None:
        parts.append(f"last AUC {now.latest['val_clean_auc']:.3f} clean")
        parts.append(f"{now.latest['val_robust_auc']:.3f} robust")
    return ", ".join([*parts, rate])


def _duration(seconds: float) -> str:
    """Write seconds for people: "42 s", "5 min", "3 h 20 min"."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / _MINUTE), _MINUTE)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _every_second() -> Callable[[], bool]:
    last = -_SECONDS_BETWEEN_LINES

    def is_due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return False
        last = now
        return True

    return is_due
