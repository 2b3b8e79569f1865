"""Where bytes and rows are kept. No word of the domain here: keys, objects, connections."""
