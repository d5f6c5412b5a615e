"""What a run asks of the machine: to reuse memory, the precision and layout in which it is fast, compiled networks."""

import ctypes
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cbseg.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt's names for its parameters (malloc.h)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors free, for the next step to use.

    By default it gives large blocks back to the system, and every step faults their pages in anew, zeroed. Elsewhere,
    and with another allocator, nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def fast_precision(accelerator: str = "auto") -> Literal["bf16-mixed", "32-true"]:
    """Choose the precision to train in, by Lightning's name: bfloat16 where its products are faster than float32's.

    Args:
        accelerator: As in ``trainer.accelerator``: on a machine with a GPU, ``cpu`` asks about its CPU.

    Returns:
        ``bf16-mixed`` where a GPU or an x86 processor multiplies bfloat16 natively, else ``32-true``.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # PyTorch's, but not public
        native = any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return "bf16-mixed" if native else "32-true"


def autocast_to(precision: Any, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes the context in which a network predicts on a device as in Lightning's mixed precision.

    Args:
        precision: By Lightning's name; others than mixed ones leave the network as it is.
        device: Where the network is.
    """
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    if dtype is None or (dtype == torch.float16 and device.type == "cpu"):
        return nullcontext
    return partial(torch.autocast, device.type, dtype)


def find_device(name: str) -> torch.device:
    """Return the device that a user names; ``auto`` is a GPU if there is one.

    Raises:
        InputError: If this machine or this PyTorch has none of the name.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name}: is not to be had ({reason}); give auto, cpu or cuda") from error


def fast_memory_format(accelerator: str = "auto") -> torch.memory_format:
    """Return the layout of images and weights that is fastest: channels last, but not on every processor.

    x86 processors with AVX2 alone are slower in it: a convolution's backward pass has no fast kernel there.

    Args:
        accelerator: As in ``trainer.accelerator``: on a machine with a GPU, ``cpu`` asks about its CPU.

    Returns:
        For ``net.to(memory_format=...)``; images follow the weights.
    """
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if on_cpu and avx2 else torch.channels_last


def device_name(device: torch.device) -> str:
    """Return a device's name for people: ``a GPU (NVIDIA H100)``, ``the CPU (8 threads)``."""
    if device.type == "cuda":
        return f"a GPU ({torch.cuda.get_device_name(device)})"
    return f"the CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser's loaded state the layout of its parameters.

    A checkpoint may come from a processor with another :func:`fast_memory_format`, and fused steps on a CPU take
    parameters and state in the order in which they lie in memory, whatever their strides.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def compile_network(net: nn.Module) -> None:
    """Compile a network in place, its parameters' names unchanged; what cannot be compiled here runs as it is.

    That is so on a machine without a compiler (on a CPU, of C++), and with Python that torch.compile cannot follow.
    """
    torch._dynamo.config.suppress_errors = True
    net.compile()
