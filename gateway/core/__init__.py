"""The domain: tasks, their lifecycle, routes, assets, keys. Knows no web, queue or socket framework."""
