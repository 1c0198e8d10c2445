"""`python -m services.warmup`."""

from services.warmup.process import main

if __name__ == "__main__":
    main()
