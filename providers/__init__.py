"""Adapters to the vendors of image and video models: a leaf that knows no web framework, queue or database."""
