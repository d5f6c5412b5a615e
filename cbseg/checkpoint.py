"""Checkpoints: files of plain tensors, read without running anything in them."""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbseg.errors import InputError


def read_tensors(file: Path, remedy: str) -> Any:
    """Read what ``torch.save`` wrote, onto the CPU: tensors, numbers and text, in lists and dicts.

    Tensors stay on disk until they are looked at.

    Args:
        file: The file.
        remedy: What to do if it is damaged.

    Raises:
        InputError: If it is damaged, holds anything else, or claims more than it holds.
    """
    with damage_refused(file, remedy):
        size, zipped = file.stat().st_size, zipfile.is_zipfile(file)
        if zipped:
            with zipfile.ZipFile(file) as archive:
                claimed = sum(item.file_size for item in archive.infolist())
            if claimed > size:  # torch.save compresses nothing
                raise ValueError(f"it claims {claimed} bytes and has {size}")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
        if any(tensor.numel() * tensor.element_size() > size for tensor in _tensors(content)):
            raise ValueError(f"a tensor claims more than the file's {size} bytes")
        return content


def read_checkpoint(file: Path, keys: Iterable[str], remedy: str = "Run it again with rerun=true") -> dict[str, Any]:
    """Read a run's checkpoint.

    Args:
        file: The file.
        keys: What it must hold.
        remedy: What to do if it is damaged.

    Raises:
        InputError: See :func:`read_tensors`; or if it lacks a key.
    """
    content = read_tensors(file, remedy)
    with damage_refused(file, remedy):
        if lacking := [key for key in keys if not isinstance(content, dict) or key not in content]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    return content


def require_intact(file: Path, remedy: str) -> None:
    """Refuse a checkpoint of which a byte is another than was written, by its own checksums; all of it is read once.

    Raises:
        InputError: With the file and the remedy.
    """
    with damage_refused(file, remedy):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if name := archive.testzip():
                    raise ValueError(f"{name} in it is not what was written")


@contextmanager
def damage_refused(file: Path, remedy: str) -> Iterator[None]:
    """Turn whatever the loading of a broken file raises, which can be anything, into one error.

    Raises:
        InputError: With the file, the first line of the reason, and the remedy.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise InputError(
            f"{file}: is damaged or not a file of plain tensors ({reason}); nothing in it was run. {remedy}"
        ) from error


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from _tensors(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _tensors(child)
