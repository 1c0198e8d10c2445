"""From a request to an order: names and values of its fields, seeds, audio that it brings."""
