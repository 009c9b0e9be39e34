"""The loop, the optimiser and its schedule, checkpoints, and the worker that puts them together. No ray, no mlflow."""
