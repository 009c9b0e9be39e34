"""Everything that imports MLflow: one writer a sweep, published results, the comparison, the plots.

What a run carries, and what everything here reads back:

    metric key                       unit     written     meaning
    train/loss                       -        a step/ep.  the objective's loss
    train/images_per_second          img/s    an epoch    all workers together
    train/data_wait                  %        an epoch    part of the time spent waiting for batches
    zero_shot/val_top1               %        an epoch    what early stopping looks at
    linear_probe/val_top1            %        the end     held-out part of train: what the best trial is chosen by
    linear_probe/test_top1           %        the end     touched once, after the choice
    linear_probe/test_top1_low,_high %        the end     its interval
    knn/test_top1                    %        the end
    zero_shot/test_top1              %        the end
    cost/device_seconds              s        the end     of training
    cost/images_seen                 -        the end     by the student
    cost/teacher_images              -        the end     that a teacher would have to see for this run alone

    tag                              values
    kind                             sweep, trial, reference, published
    source                           measured, published
    method, dataset, teacher, student, prompt_set        what was compared; `varied` on a sweep that varies it
    beamclip.sweep_id, beamclip.trial_id                 by which a resumed sweep finds its runs again
    beamclip.command, beamclip.folder                    on a sweep: what was typed, and where its record lies
    beamclip.teacher_near_chance     on a sweep: which teachers and prompt sets hardly know the classes

Params are the flattened resolved config, on a sweep also `space.KEY` and `variant.NAME`. Children hang one level below their sweep.
"""

import os

# Before mlflow is imported, which reads it once: the demo promises to need no network. Set it to false to have it back.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault(
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"
)  # a bar for every file of a few kilobytes

from beamclip.tracking.artifacts import Artifacts, fetch_settings, fetch_student
from beamclip.tracking.client import connect, told
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
    "told",
    "write_published",
]
