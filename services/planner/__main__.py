"""`python -m services.planner`: prints a plan, or the error, as one JSON object."""

import gc

if __name__ == "__main__":
    # A quarter of the time of the imports would go into looking for garbage; a measurement enables it again.
    gc.disable()
    from services.planner.process import main

    main()
