"""The preload process: imports torch, maps the weights once, and forks a worker whenever it is asked."""
