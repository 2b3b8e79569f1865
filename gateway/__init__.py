"""What clients talk to, and the domain under it."""
