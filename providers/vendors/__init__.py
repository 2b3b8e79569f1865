"""One vendor each: `<name>.py` (the adapter) beside `<name>.toml` (its card)."""
