"""`python -m services.warmup`."""

import os

from services.runtime.preload.environment import CUDA_ENVIRONMENT

if __name__ == "__main__":
    # Before the imports: they look for a CUDA device, and that is when these are read.
    os.environ.update(CUDA_ENVIRONMENT)
    from services.warmup.process import main

    main()
