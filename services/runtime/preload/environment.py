"""The environment of a preload process, which cannot be changed once it runs."""

from __future__ import annotations

import os

from services.runtime.processes import heap

CONVOLUTION_CACHE_COUNT = 256
"""How many convolutions oneDNN keeps compiled, on the CPU. A song has some 200 of the VAE: of each layer
for each shape of a piece of a tile. With fewer, every song compiles them again, for a quarter of its decode.
With oneDNN's own 1024, every new length adds those of its last tile, of about 1 MiB each."""

SPIN_COUNT = 10_000
"""How often a thread of OpenMP looks whether the others are done before it sleeps: for 0.25 ms on a Zen 4.
The 300,000 of GNU's OpenMP last longer than the kernel's slices of time: where another program takes one CPU,
the thread that waits then keeps the other one from the thread that it waits for."""

CUDA_ENVIRONMENT = {
    # The order of devices is that of NVML, which the services count by.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Whether there is a device is asked of NVML: asked of CUDA, that could not be used after a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def preload_environment(cuda_allocator: str | None) -> dict[str, str]:
    """That of this process; PyTorch reads its allocator's setting from there alone, never from `.env`."""
    allocator = {} if cuda_allocator is None else {"PYTORCH_CUDA_ALLOC_CONF": cuda_allocator}
    defaults = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(CONVOLUTION_CACHE_COUNT), **heap.HUGE_PAGES}
    if "OMP_WAIT_POLICY" not in os.environ:  # a count would overrule it
        defaults["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return defaults | os.environ | CUDA_ENVIRONMENT | allocator
