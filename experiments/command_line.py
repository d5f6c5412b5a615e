"""What the command lines of the experiments share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cbseg.errors import InputError


@contextmanager
def one_message() -> Iterator[None]:
    """End the command with one message and exit code 1 where its input is bad."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
