"""`python -m services.planner`: prints a plan, or the error, as one JSON object."""

import gc
import os

from services.runtime.preload.environment import CUDA_ENVIRONMENT

if __name__ == "__main__":
    # Before the imports: they look for a CUDA device, and that is when these are read.
    os.environ.update(CUDA_ENVIRONMENT)
    # A quarter of the time of the imports would go into looking for garbage; a measurement enables it again.
    gc.disable()
    from services.planner.process import main

    main()
