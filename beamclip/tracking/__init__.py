"""Write and read MLflow runs: sweeps, trials, reference runs and published results.

No other package imports mlflow. Metrics of a run:

    metric key                       unit     written     meaning
    train/loss                       -        step/epoch  the objective's loss
    train/images_per_second          img/s    epoch       all workers together
    train/data_wait                  %        epoch       share of time spent waiting for batches
    zero_shot/val_top1               %        epoch       early stopping looks at it
    linear_probe/val_top1            %        end         on held-out train; selects the best trial
    linear_probe/test_top1           %        end         computed once, after the selection
    linear_probe/test_top1_low,_high %        end         its 95 % interval
    knn/test_top1                    %        end
    zero_shot/test_top1              %        end
    cost/device_seconds              s        end         of training
    cost/images_seen                 -        end         by the student
    cost/teacher_images              -        end         a teacher would see for this run alone

Tags of a run:

    tag                              values
    kind                             sweep, trial, reference, published
    source                           measured, published
    method, dataset, teacher, student, prompt_set        compared settings; `varied` on a sweep that
                                                         varies them
    beamclip.sweep_id, beamclip.trial_id                 by which a resumed sweep finds its runs
    beamclip.command, beamclip.folder                    on a sweep: its command line and its folder
    beamclip.teacher_near_chance     on a sweep: teachers that hardly know the classes

Params are the flattened resolved config, on a sweep also `space.KEY` and `variant.NAME`. Trials and
reference runs are children of their sweep's run.
"""

import os

# Set before mlflow is imported, which reads these once. The demo must need no network, and there
# would be a progress bar for each file of a few kilobytes. Users may set them otherwise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from beamclip.tracking.artifacts import Artifacts, fetch_settings, fetch_student
from beamclip.tracking.client import connect, mlflow_errors_as_user_error
from beamclip.tracking.published import PublishedResult, load_published, write_published
from beamclip.tracking.sweep_tracker import SweepTracker

__all__ = [
    "Artifacts",
    "PublishedResult",
    "SweepTracker",
    "connect",
    "fetch_settings",
    "fetch_student",
    "load_published",
    "mlflow_errors_as_user_error",
    "write_published",
]
