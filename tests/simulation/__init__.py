"""A simulation of the core: processes, vendors, clients and faults, all of it decided by one number.

Everything runs in one thread, at a time of its own, over one SQLite database in memory. A seed decides the workload,
what breaks and in which order things happen, so that whatever a seed finds can be seen again.

    python -m tests.simulation --seed 7
    python -m tests.simulation --seeds 20000 --processes 2
"""
