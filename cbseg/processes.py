"""Work in processes of its own, so that what kills it kills nothing else."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

import pytorch_lightning as pl

_GRACE = 60  # seconds for a process to end by itself


def isolated(job: Callable[..., None], *arguments: Any, processes: int = 1) -> str:
    """Run a job in one process of its own, or in several that train together, and wait for it.

    The processes end with this one, however it ends. Ctrl-C and SIGTERM reach them and give them time to stop.

    Args:
        job: Called with the arguments in each process. It ends by returning, or by ``sys.exit`` with a code.
        arguments: What it is called with.
        processes: How many; each finds its number in ``LOCAL_RANK``, and ``MASTER_ADDR`` and ``MASTER_PORT``.

    Returns:
        Nothing if all ended well, else why one did not.

    Raises:
        KeyboardInterrupt: At Ctrl-C, once the processes ended.
        SystemExit: At SIGTERM, once the processes ended.
    """
    # a fork spares each job the import of the libraries; nothing was computed here that it could break
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    port = _free_port() if processes > 1 else None
    children: list[BaseProcess] = [
        context.Process(target=_child, args=(rank, port, job, arguments))  # type: ignore[attr-defined]
        for rank in range(processes)
    ]
    before = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        for child in children:
            child.start()
        _first_to_end(children)
        return _reason(children)
    except BaseException:
        for child in children:
            if child.pid is not None:
                child.terminate()
        raise
    finally:
        _reap(children)
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class StopAtOnce(pl.Callback):
    """SIGTERM ends a run in good order; Lightning would first talk to other processes, which may be gone."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signal back from Lightning."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)

    on_test_start = on_fit_start


def _child(rank: int, port: int | None, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when to stop
    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGUSR2"):  # a cluster's launcher acts on it in the parent; a fork inherits its handler
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if port is not None:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", **address}  # whatever a cluster set there
    try:
        job(*arguments)
    finally:  # a loader's workers would be waited for, and do not listen to SIGTERM
        for worker in multiprocessing.active_children():
            worker.kill()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End the process in good order, as a signal's handler."""
    sys.exit(128 + number)


def _first_to_end(children: list[BaseProcess]) -> None:
    """Wait until all ended well, or one did not."""
    waiting = list(children)
    while waiting and not any(child.exitcode for child in children):
        multiprocessing.connection.wait([child.sentinel for child in waiting])
        waiting = [child for child in waiting if child.exitcode is None]


def _reason(children: list[BaseProcess]) -> str:
    codes = [child.exitcode for child in children if child.exitcode]
    if not codes:
        return ""
    if codes[0] > 0:
        return f"the process ended with exit code {codes[0]}"
    name = signal.Signals(-codes[0]).name
    memory = ": the system does this where memory runs out" if name == "SIGKILL" else ""
    return f"the process was killed by {name}{memory}"


def _reap(children: list[BaseProcess]) -> None:
    """See every process end: by itself, else by SIGKILL."""
    failed = any(child.exitcode for child in children)
    for child in children:
        if child.pid is None:
            continue
        if failed:
            child.terminate()
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the waiting
            child.join(_GRACE)
        if child.exitcode is None:
            child.kill()
            child.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
