"""How far a long piece of work is: a bar in a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

_EVERY = 10.0  # seconds between lines


def progress(pieces: Iterable[T], what: str, size: int, total: int) -> Iterator[T]:
    """Give the pieces of some work one after the other, and tell on stderr how far it is.

    Args:
        pieces: Of the work.
        what: Was done with them, such as ``segmented``.
        size: What a piece stands for, such as the slices of a batch.
        total: What all stand for; the last may stand for less.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(pieces, what, total=-(-total // size), transient=True, console=console)
        return
    begun = told = time.monotonic()
    for k, piece in enumerate(pieces):
        now = time.monotonic()
        if now - told >= _EVERY:
            told, done = now, k * size
            left = (now - begun) * (total - done) / done
            print(f"{what} {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)
        yield piece
