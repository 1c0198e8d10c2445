"""The jobs of the front doors: what was ordered, how it goes, and what came of it."""
