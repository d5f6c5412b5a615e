"""What a run asks of the machine: how memory is reused, and in which precision its processor is fast."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt's names for its parameters (malloc.h)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors free, for the next step to use.

    By default it gives large blocks back to the system, and every step faults their pages in anew, zeroed: on a CPU
    about a fifth of a training step of the FCN8. Elsewhere, and with another allocator, nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def fast_precision(accelerator: str = "auto") -> str:
    """Lightning's name of the fastest precision that trains as well as single precision.

    Args:
        accelerator: As in ``trainer.accelerator``: on a machine with a GPU, ``cpu`` asks about its CPU.

    Returns:
        ``bf16-mixed`` where the processor multiplies bfloat16 natively, else ``32-true``.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"
