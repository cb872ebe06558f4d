"""One file per figure that we publish; `python -m benchmarks.NAME --json`."""
