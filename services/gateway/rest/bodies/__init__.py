"""Bodies of requests: how much is read, in which form, and what is said of them in the description."""
