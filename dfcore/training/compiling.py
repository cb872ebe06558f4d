"""The crafting twin compiled, where that pays: on a GPU, in runs long enough."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from dfcore.models import FoldedDetector

__all__ = ["compile_twin", "uncompiled", "worth_compiling"]

logger = logging.getLogger(__name__)

# Crafting steps after which a minute of compiling has paid for itself.
_STEPS = 5_000


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether a run of so many crafting batches gains by a compiled twin.

    On a CPU folding has taken most of what fusing could gain, and compiling takes longer.
    """
    return device.type == "cuda" and steps >= _STEPS


def compile_twin(twin: FoldedDetector, images: torch.Tensor, *, backend: str = "inductor") -> bool:
    """Compile a twin's backbone in place; names, weights and `refresh` stay as they are.

    No parameter of a twin asks for a gradient, so that the compiled backward pass computes none but the
    images'. A compiler that is missing or gives up costs a warning, and the twin runs as before.

    Args:
        twin: of the detector that is trained.
        images: (N, 3, H, W) of the shape that crafting will have; tried once, forward and backward.
        backend: of torch.compile.

    Returns:
        Whether it is compiled now.
    """
    from torch._dynamo.exc import TorchDynamoException  # the compiler takes seconds to import

    assert not any(value.requires_grad for value in twin.parameters())
    try:
        twin.backbone.compile(backend=backend, dynamic=False)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # tracing looks at the input's `.grad`
            pixels = images.detach().clone().requires_grad_()
            torch.autograd.grad(twin(pixels).sum(), pixels)
    except (TorchDynamoException, RuntimeError, OSError) as error:
        twin.backbone._compiled_call_impl = None  # what `compile` sets, and all that it sets
        logger.warning("crafting is not compiled: %s", str(error).splitlines()[0] if str(error) else error)
        return False
    return True


@contextmanager
def uncompiled(compiled: bool = True) -> Iterator[None]:
    """Run without the compiler meanwhile: validation has other shapes, and each would be compiled anew.

    Args:
        compiled: whether anything is.
    """
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
