"""Averaged weights, which swing less from step to step than the last ones."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from cbseg.errors import ArgumentError


class EMAWeights(WeightAveraging):
    r"""Validate, select, test and keep an exponential moving average of the weights instead of the weights.

    .. math:: \bar\theta_n = d_n \bar\theta_{n-1} + (1 - d_n)\,\theta_n, \qquad
              d_n = \min\Big(d, \frac{1 + n}{10 + n}\Big)

    so that the average goes over the last 1 / (1 - d) steps, and over fewer while there are not as many: the weights
    with which training began are soon forgotten, also in a short run.

    Args:
        decay: d.

    Raises:
        InputError: If d is not between 0 and 1.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not (isinstance(decay, int | float) and 0 < decay < 1):
            raise ArgumentError(f"decay={decay}: give a number between 0 and 1, such as 0.99")
        self.decay = decay
        super().__init__(multi_avg_fn=self._average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the average where training happens: Lightning keeps it where the network is before it is moved there."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            steps = self._average_model.n_averaged
            self._average_model.to(trainer.strategy.root_device)
            self._average_model.n_averaged = steps  # asked at each step, for which a GPU would have to be waited for

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor) -> None:
        """Take up one step's weights; ``steps`` went before."""
        decay = ((1 + steps) / (10 + steps)).clamp(max=self.decay)
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, (1 - decay).to(average.dtype))
            else:  # such as how many batches a batch norm has seen
                average.copy_(weight)
