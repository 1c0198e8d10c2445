"""How fast songs are made, against `diffusers` on the same weights: `python -m bench.speed`.

    dit      a step of the diffusion transformer, and how far its latents are from those of diffusers
    vae      a decode
    song     a song through all services, against the same engines in one process; memory of all processes
    waking   how long it takes to wake the worker of each stage
    lengths  time and memory by the length of the song and the size of the batch

`--quick` measures the first three alone. Figures of diffusers are taken in the same process, in turns with
ours and with the same heap, that of a worker; ratios are taken within a round. Everything goes to
`out/bench.json`, from which `bench.speed.report` writes `docs/benchmarks.md`, or what `--page` names.
"""
