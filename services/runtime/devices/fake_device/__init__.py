"""A device for tests: the CPU computes, but with a size, a count of bytes, and failures on command.

`ACESTAGE_DEVICE=fake:0` with a file `fake-0.json` in the run folder:

    {"total_bytes": 268435456,
     "faults": [{"stage": "vae", "kind": "out_of_memory", "at": 2, "times": 1}]}

A worker's tensors are counted as they are allocated, and an allocation beyond the lease or the device
fails as on CUDA. Faults strike before the message number `at` of a job (0: as the weights are placed;
1: before the first step or tile), `times` times in all:

- "out_of_memory": as the allocator would raise it,
- "crash": the process ends,
- "slow": it takes `seconds` longer,
- "wedge": it hangs until it is killed,
- "linger": once the process is dead, its device stays in use for `seconds`, as while a driver cleans up.
"""
