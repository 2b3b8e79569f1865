"""The drill: a real deployment under load, with faults by a seeded schedule, and a checker that trusts nobody.

`python -m tests.drill` runs it. Five records are kept that do not know each other: what clients sent and were told,
what the vendor accepted and delivered, what the sink of webhooks heard, the database, and the object store. The checker
holds them side by side.
"""
