"""How far attribution predicts retraining, ours beside the peers', on one bank: `python -m benchmarks.quality`."""
