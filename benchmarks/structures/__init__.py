"""EK-FAC beside kronfluence, side by side in one run: `python -m benchmarks.structures`."""
