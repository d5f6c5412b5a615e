"""Notices a loss that is no number, without making a GPU wait for the answer."""

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch, the terms and the batch's slices."""


class Step(NamedTuple):
    """What is known of a step: its epoch, its terms once they have arrived, and its slices."""

    epoch: int
    names: list[str]
    slices: list[str]
    values: Tensor
    arrived: torch.cuda.Event | None


class FiniteLossWatch:
    """Looks at each step's terms once they are known: on a CPU at once, on a GPU when their copy has arrived.

    Asking a GPU for a number at each step would make it idle until the next one is prepared. A step or two later the
    weights are lost, but not the run: checkpoints are written after :meth:`look` was told to wait.
    """

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()

    def add(self, terms: dict[str, Tensor], epoch: int, slices: list[str]) -> None:
        """Take a step's terms, scalars, and look at those that are known.

        Args:
            terms: By name; the total under ``loss``.
            epoch: From 1.
            slices: The batch's.

        Raises:
            NonFiniteLossError: If the loss of this step, or of an earlier one, is not finite.
        """
        values, arrived = torch.stack([value.detach().float() for value in terms.values()]), None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.steps.append(Step(epoch, list(terms), slices, values, arrived))
        self.look(wait=False)

    def look(self, wait: bool) -> None:
        """Look at the steps whose terms have arrived, or wait for all.

        Raises:
            NonFiniteLossError: If a loss is not finite.
        """
        while self.steps:
            step = self.steps[0]
            if step.arrived is not None:
                if wait:
                    step.arrived.synchronize()
                elif not step.arrived.query():
                    return
            self.steps.popleft()
            terms = dict(zip(step.names, step.values.tolist(), strict=True))
            if not math.isfinite(terms["loss"]):
                listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
                raise NonFiniteLossError(
                    f"the loss is not finite in epoch {step.epoch} ({listed}), on the slices "
                    f"{', '.join(step.slices)}. best.ckpt in the run's folder holds the best weights so far, "
                    "if an epoch was finished; look at these slices, lower optim.lr or set trainer.precision=32-true"
                )
