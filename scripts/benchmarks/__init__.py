"""The benchmarks behind `scripts/bench`: qsub_py, its peers and the physical limits.

Each *contender* is measured in a process of its own (driver.py); the main process only
asks, in interleaved blocks, and prints medians (report.py). Rows are listed in rows.py.
"""
