"""A vendor that does what a test tells it to, as a server of its own, with its adapter and card."""
