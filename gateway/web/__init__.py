"""What the HTTP surface shares: reading bodies and queries, serving bytes. Knows no dialect."""
