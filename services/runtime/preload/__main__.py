"""`python -m services.runtime.preload CONTROL_FD PARENT_PID CONFIG_JSON`, where no template forks it."""

import gc
import signal
import sys

from services.runtime.processes.parent_death import die_with_parent

if __name__ == "__main__":
    # Before the imports, which take seconds: a service that dies meanwhile must not leave this behind.
    die_with_parent(int(sys.argv[2]), signal.SIGKILL)
    # A quarter of the time of the imports would go into looking for garbage; `main` enables that afterwards.
    gc.disable()
    from services.runtime.preload.process import main

    main(int(sys.argv[1]), sys.argv[3])
