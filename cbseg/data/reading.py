"""Files that may hold anything: whatever goes wrong while one is read is one error that names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbseg.errors import InputError

MOST_VOXELS = 2**31  # of a volume: 2048 slices of 1024 × 1024
MOST_PIXELS = 2**26  # of a slice: 8192 × 8192
_MOST_TEXT = 2**20  # bytes
_MEMORY_SHARE = 0.5  # of the machine's, which one volume may take


@contextmanager
def reading(path: Path | str, what: str = "cannot be read", advice: str = "copy or export it again") -> Iterator[None]:
    """Turn any error within into an InputError that names the file; an InputError goes on as it is.

    Readers of medical formats raise whatever a damaged header leads to, so no list of exceptions would be complete.

    Args:
        path: The file or folder that is read.
        what: Is wrong with it.
        advice: What to do.

    Raises:
        InputError: If anything is raised.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into memory; crop it, or take a machine with more") from error
    except Exception as error:
        detail = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise InputError(f"{path}: {what} ({' '.join(detail.split())[:300]}); {advice}") from error


@contextmanager
def reading_values(path: Path) -> Iterator[None]:
    """Do as :func:`reading`, for a run's own file whose values are looked at: each InputError names the file too.

    Args:
        path: The file.

    Raises:
        InputError: If anything is raised.
    """
    try:
        with reading(path, "is not as its run wrote it", "take the folder as the run left it, or run it again"):
            yield
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(f"{path}:") else f"{path}: {message}") from error


def text_of(path: Path) -> str:
    """Return what a text file begins with, whatever its bytes; nothing if it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_TEXT).decode(errors="replace")
    except OSError:
        return ""


def require_room(path: Path, voxels: int, bytes_each: int) -> None:
    """Refuse a file whose header claims more than a CT has, or than fits into memory, before it is unpacked.

    Args:
        path: The file.
        voxels: How many its header claims.
        bytes_each: What one takes.

    Raises:
        InputError: If they are too many.
    """
    gigabytes = voxels * bytes_each / 2**30
    if voxels > MOST_VOXELS:
        raise InputError(f"{path}: its header claims {voxels:.2g} voxels, more than a CT has; export it again")
    memory = _memory()
    if memory and voxels * bytes_each > _MEMORY_SHARE * memory:
        raise InputError(
            f"{path}: its header claims {gigabytes:.1f} GiB, this machine has {memory / 2**30:.1f} GiB of memory; "
            "crop the volume, or take a machine with more"
        )


def _memory() -> int:
    """Return the machine's memory, bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return 0
