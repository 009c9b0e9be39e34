"""Train one student: data loader, loop, optimizer, checkpoints, and the worker that runs them.

Nothing here imports ray or mlflow, so a run can be started in a notebook, in a test or on a bare
GPU machine: see `beamclip.training.worker.run_worker`.
"""
