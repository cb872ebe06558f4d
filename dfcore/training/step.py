"""One optimiser step: craft, perturb the weights, loss, backward, finish; then average, check, clip, move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from dfcore.defences import TrainingState
from dfcore.training.guard import Facts, Suspect
from dfcore.training.processes import average
from dfcore.training.run import Run
from dfcore.training.schedule import learning_rate, move_average
from dfcore.training.weight_perturbation import perturbed

__all__ = ["take_step"]

Scalars = dict[str, torch.Tensor]


def take_step(
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    state: TrainingState,
    number: int,
    *,
    due: bool = False,
) -> tuple[Scalars, Facts | None]:
    """Train on one batch.

    Args:
        run: weights, optimiser, averages and twin are changed.
        images: (N, 3, H, W) float32 in [0, 1], this process's share.
        labels: (N,).
        state: what the defence may know.
        number: of the step in the run, from 1.
        due: whether this process wants to save; the first one's wish reaches all with the facts.

    Returns:
        Scalars of the whole batch, on the device; and the latest facts that the host knows, on a GPU those
        of the step before.

    Raises:
        WorkFailed: a loss or gradient is not finite.
    """
    recipe = run.recipe
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, number, run.training.steps)
    run.optimiser.zero_grad(set_to_none=True)
    scalars: Scalars = {}
    attacked = []
    for part_images, part_labels in _parts(images, labels, recipe.optimiser.accumulate):
        share = len(part_labels) / len(labels)
        crafted, found = _learn(run, part_images, part_labels, state, share)
        attacked.append(crafted)
        for name, value in found.items():
            # a share of one changes no bit
            scalars[name] = value * share if name not in scalars else scalars[name] + value * share
    parameters = [parameter for parameter in run.detector.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    wish = torch.full((), float(due and run.fabric.is_global_zero), device=labels.device)
    if run.fabric.world_size > 1:
        scalars = {name: value.float().clone() for name, value in scalars.items()}
        average([*gradients, *_statistics(run), *scalars.values(), wish], len(labels), run.fabric)
    place = f"epoch {(number - 1) // run.training.steps + 1}, step {(number - 1) % run.training.steps + 1}"
    facts = _move(run, parameters, scalars, wish, Suspect(place, images, labels, attacked))
    if run.average is not None and recipe.optimiser.ema_decay is not None:
        # early averages follow faster, or the random start would weigh for long
        move_average(run.average, run.detector, min(recipe.optimiser.ema_decay, (1 + number) / (10 + number)))
    if recipe.defence.adversarial:
        run.twin.refresh(run.detector)
    return scalars, facts


def _parts(
    images: torch.Tensor, labels: torch.Tensor, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Split a batch; every part gets its share of both classes, as crops of one class lie together."""
    for part in range(count):
        yield (images, labels) if count == 1 else (images[part::count], labels[part::count])


def _learn(
    run: Run, images: torch.Tensor, labels: torch.Tensor, state: TrainingState, share: float
) -> tuple[tuple[torch.Tensor, ...], Scalars]:
    """Add one part's gradient to `.grad`; return what was crafted and the part's scalars."""
    defence, autocast = run.recipe.defence, run.fabric.autocast
    with autocast():
        attacked = defence.craft(images, labels, state)

    def scaled() -> torch.Tensor:
        with autocast():
            return run.scaler.scale(defence.loss(run.detector, images, labels, attacked, state)[0])

    perturbation = run.recipe.weight_perturbation
    place: AbstractContextManager[None] = nullcontext()
    if perturbation is not None and state.epoch > perturbation.warmup_epochs:
        place = perturbed(
            run.detector, perturbation.gamma, scaled, lambda found: average(found, len(labels), run.fabric)
        )
    with place:
        with autocast():
            loss, scalars = defence.loss(run.detector, images, labels, attacked, state)
        run.scaler.scale(loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]  # torch's own
    defence.finish(state)
    return attacked, {"loss": loss.detach(), **scalars}


def _statistics(run: Run) -> list[torch.Tensor]:
    """The batch statistics, which every process gathers on its own crops."""
    return [
        value
        for name, value in run.detector.named_buffers()
        if name.endswith((".running_mean", ".running_var"))
    ]


def _move(
    run: Run, parameters: list[torch.nn.Parameter], scalars: Scalars, wish: torch.Tensor, suspect: Suspect
) -> Facts | None:
    """Clip and take the optimiser's step, if loss and gradient are finite."""
    run.scaler.unscale_(run.optimiser)
    limit = run.recipe.optimiser.gradient_clip
    if limit is None:
        size = torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
    else:
        size = torch.nn.utils.clip_grad_norm_(parameters, limit)
    healthy = scalars["loss"].isfinite()
    if run.scaler.is_enabled():
        skipped = (~size.isfinite()).float()
        run.skips = (run.skips + skipped) * skipped
        scalars["skipped_steps"] = skipped
    else:
        healthy = healthy & size.isfinite()
    facts = torch.stack([scalars["loss"].float(), healthy.float(), run.skips, wish])
    known = run.guard.note(facts, suspect)
    if run.guard.lagged and not run.scaler.is_enabled():
        run.optimiser.found_inf = (~healthy).float()  # type: ignore[attr-defined]  # read by fused kernels
    run.scaler.step(run.optimiser)
    run.scaler.update()
    return known
