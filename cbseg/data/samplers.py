"""In which order the training slices come: by seed and epoch alone."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from cbseg.seeds import derived_seed


class EpochSampler(Sampler[int]):
    """A shuffle that depends on seed and epoch alone, so that a resumed run sees what it would have seen.

    Args:
        places: What to draw from.
        samples: Draws an epoch.
        replacement: Whether each draw is from all slices; else every slice is drawn once before any is drawn again.
        seed: The run's seed.
        share: This process's number and how many there are; each gets as many, and up to one less are left over.
        name: Samplers of other names draw in other orders.
    """

    def __init__(
        self,
        places: range,
        samples: int,
        replacement: bool,
        seed: int,
        share: tuple[int, int] = (0, 1),
        name: str = "epoch",
    ) -> None:
        self.places, self.samples, self.replacement, self.seed, self.share = places, samples, replacement, seed, share
        self.name = name
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples // self.share[1]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, f"{self.name} {self.epoch}"))
        if self.replacement:
            order = torch.randint(len(self.places), (self.samples,), generator=generator)
        else:
            passes = -(-self.samples // len(self.places))
            order = torch.cat([torch.randperm(len(self.places), generator=generator) for _ in range(passes)])[
                : self.samples
            ]
        rank, processes = self.share
        yield from (self.places[k] for k in order[rank::processes][: len(self)].tolist())


class MixedSampler(Sampler[int]):
    """Fill each batch from two samplers, so that as many of both are in each.

    Args:
        first: The one that is used up at the end of the epoch; its last batch may be short.
        second: The other.
        of_first: How many a batch.
        of_second: How many a batch.
    """

    def __init__(self, first: EpochSampler, second: EpochSampler, of_first: int, of_second: int) -> None:
        self.first, self.second, self.of_first, self.of_second = first, second, of_first, of_second

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each."""
        self.first.set_epoch(epoch)
        self.second.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[int]:
        first, second = iter(self.first), iter(self.second)
        while batch := list(islice(first, self.of_first)):
            yield from batch
            yield from islice(second, self.of_second)
