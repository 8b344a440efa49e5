"""The parts of scripts/bench.py: one process for each engine, rounds in turn, one table."""
