"""How far attribution predicts retraining: measures, baselines, and the job that puts results beside both."""
