"""Measurements of running services. They are no tests: nothing here passes or fails.

    python -m bench.speed        how fast songs are made, against diffusers
    python -m bench.swaps        what batching under one lease and staying warm save
    python -m bench.memory       whether processes grow over many jobs
    python -m bench.gateway      how soon REST answers while fifty clients order songs
    python -m bench.host_memory  what the services take beside the device, and how long they take to start

All work on the CPU and print a table. They start their own services on free ports, with the embedded model
unless `--checkpoint` names another one, and write all their figures to `out/bench-NAME.json`; `speed` takes a
full-size model, writes `out/bench.json` and, with `--write-docs`, from it `docs/benchmarks.md`, or what
`--page` names. A full-size checkpoint with random weights is written by

    python -m scripts.random_checkpoint DIR --size full --layout original --dtype bfloat16

Figures of times are medians with the range in brackets. Other work on the machine makes them noisy, so
compare only what was measured in one run.
"""
