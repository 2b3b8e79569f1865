"""API shapes over the same core, one each; thin."""
