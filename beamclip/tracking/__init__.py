"""Write and read MLflow runs: sweeps, trials, reference runs and published results.

No other package of beamclip imports mlflow. Metrics of a run:

    metric key                       unit     written     meaning
    train/loss                       -        step/epoch  the objective's loss
    train/images_per_second          img/s    epoch       of all workers together
    train/data_wait                  %        epoch       share of time spent waiting for batches
    zero_shot/val_top1               %        epoch       early stopping uses it
    linear_probe/val_top1            %        end         on held-out train; selects the best trial
    linear_probe/test_top1           %        end         computed once, after the selection
    linear_probe/test_top1_low,_high %        end         its 95 % interval
    knn/test_top1                    %        end         k nearest neighbors on student features
    zero_shot/test_top1              %        end         with the class anchors
    cost/device_seconds              s        end         device time of training
    cost/images_seen                 -        end         images that the student saw
    cost/teacher_images              -        end         images a teacher would encode for this run
                                                          alone

Tags of a run:

    tag                              values
    kind                             sweep, trial, reference, published
    source                           measured, published
    method, dataset, teacher, student, prompt_set        compared settings; `varied` on a sweep that
                                                         varies them
    beamclip.sweep_id, beamclip.trial_id                 a resumed sweep finds its runs by them
    beamclip.command, beamclip.folder                    on a sweep: its command line and its folder
    beamclip.teacher_near_chance     on a sweep: teachers whose zero-shot is near guessing

Params are the flattened resolved config. A sweep's run also has `space.KEY` and `variant.NAME`.
Trials and reference runs are children of their sweep's run.
"""

import os

# Set before mlflow is imported, which starts its telemetry on import. Without telemetry the demo
# needs no network. The progress bars would be one for each file of a few kilobytes. Users may set
# both variables otherwise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from beamclip.tracking.artifacts import Artifacts, fetch_settings, fetch_student
from beamclip.tracking.client import (
    connect,
    describe_tracking,
    mlflow_errors_as_user_error,
    upgrade_tracking,
)
from beamclip.tracking.published import PublishedResult, load_published, write_published
from beamclip.tracking.sweep_tracker import SweepTracker

__all__ = [
    "Artifacts",
    "PublishedResult",
    "SweepTracker",
    "connect",
    "describe_tracking",
    "fetch_settings",
    "fetch_student",
    "load_published",
    "mlflow_errors_as_user_error",
    "upgrade_tracking",
    "write_published",
]
