"""The warmup process itself: compiles the kernels that are missing, and says so.

With a parent it works in the background: at the lowest priority, heard in the log alone. However it ends,
nothing is left of it but kernels that are complete; what SIGKILL leaves, the next one removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import torch

from acestage.cli.terminal import open_console, print_label
from acestage.errors import AcestageError, FailedPreconditionError
from acestage.settings import Settings
from services.runtime.devices.devices import resolve_device
from services.runtime.kernels.compiling import check_compiler, compile_kernel
from services.runtime.kernels.store import kernel_path, kernels_folder
from services.runtime.processes import flags, logs
from services.runtime.processes.low_priority import take_lowest_priority
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.processes.private_folder import make_private
from services.runtime.processes.work_folder import WorkFolder
from services.warmup.wanted import WantedKernel, find_wanted

log = logging.getLogger(__name__)


def main() -> None:
    """Compiles what the stages would use with the settings that the arguments give."""
    signal.signal(signal.SIGTERM, _end)
    settings, parent_pid = flags.parse("warmup", "Compiles the kernels of the stages.")
    logs.configure("warmup", settings.log_level)
    torch.set_num_threads(1)
    try:
        if parent_pid is None:
            _warm_up(settings)
        else:
            die_with_parent(parent_pid, signal.SIGTERM)
            take_lowest_priority()
            _warm_up_in_background(settings)
    except AcestageError as error:
        if parent_pid is None:
            print_label(open_console(stderr=True), error.reason, error.message, "red")
        else:
            log.warning("kernels are not compiled: %s", error.message.partition("\n")[0])
        sys.exit(1)
    except KeyboardInterrupt:
        _leave(signal.SIGINT)
    except SystemExit:
        _leave(signal.SIGTERM)  # it is from `_end`


def _warm_up(settings: Settings) -> None:
    device = _device(settings)
    folder = kernels_folder(settings.cache_dir, device)
    wanted = find_wanted(settings, device)
    console = open_console()
    if wanted:
        _compile(wanted, settings, device, lambda text: console.print(text, soft_wrap=True))
        console.print(f"The compiled kernels are in {folder}.", soft_wrap=True)
    else:
        console.print(f"There is nothing to do: all kernels are in {folder}.", soft_wrap=True)


def _warm_up_in_background(settings: Settings) -> None:
    device = _device(settings)
    wanted = find_wanted(settings, device)
    if wanted and device.type == "cuda":
        # It would take memory of the device that the ledger of leases knows nothing of.
        log.info("kernels for %s are compiled by `acestage warmup`, while no services run", device)
    elif wanted:
        names = ", ".join(map(str, wanted))
        log.info("compiling for workers that start later, at the lowest priority: %s", names)
        _compile(wanted, settings, device, log.debug)
        log.info("the compiled kernels are in %s", kernels_folder(settings.cache_dir, device))


def _device(settings: Settings) -> torch.device:
    name = resolve_device(settings.device)
    return torch.device(name if name.startswith("cuda") else "cpu")


def _compile(
    wanted: Sequence[WantedKernel],
    settings: Settings,
    device: torch.device,
    say: Callable[[str], object],
) -> None:
    """Compiles all of `wanted` that can be.

    Raises:
        FailedPreconditionError: nothing can be compiled, or not all of it.
    """
    check_compiler(device)
    cache_dir = settings.cache_dir
    faults: list[str] = []
    try:
        make_private(cache_dir)
        # 300 MB of precompiled headers, of use for these kernels alone.
        with contextlib.closing(WorkFolder(cache_dir)) as folder:
            # The headers go to the folder for temporary files, whatever the first variable says.
            tempfile.tempdir = str(folder.path.absolute())
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TMPDIR"] = tempfile.tempdir
            for one in wanted:
                start = time.monotonic()
                path = kernel_path(one.kernel, cache_dir, device, one.dtype)
                try:
                    compile_kernel(one.kernel, path, device, one.dtype, folder.path)
                except FailedPreconditionError as fault:  # another stage may have all of its own
                    faults.append(fault.message)
                    continue
                say(f"{one}: {time.monotonic() - start:.1f} s")
    except OSError as error:
        raise FailedPreconditionError(f"cache_dir: cannot write to {cache_dir}: {error}") from error
    if faults:
        raise FailedPreconditionError(f"{len(faults)} of {len(wanted)} kernels failed: {faults[0]}")


def _leave(number: signal.Signals) -> NoReturn:
    """Ends this process, as `number` asked, where nothing is left to be done.

    To take torch apart would need a second of a CPU, for which the lowest priority may have to wait long.
    """
    sys.stdout.flush()
    os._exit(128 + number)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends this process in order, and the compilers that it started, where it leads a process group."""
    if os.getpgrp() == os.getpid():
        signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)
    sys.exit(128 + number)
