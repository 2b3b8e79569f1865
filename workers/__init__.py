"""Processes that run the core without a web server, and the queues that reach them."""
