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
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file of a few kilobytes

from beamclip.tracking.artifacts import Artifacts
from beamclip.tracking.cells import Cell, Row
from beamclip.tracking.compare import Comparison, compare
from beamclip.tracking.cost_plot import cost_plot
from beamclip.tracking.effect_plots import effects_plot, parallel_plot
from beamclip.tracking.effects import effect_rows, effects, effects_line
from beamclip.tracking.noise import over_seeds
from beamclip.tracking.notes import notes
from beamclip.tracking.plots import temperature_plot
from beamclip.tracking.published import PublishedResult, load_published, write_published
from beamclip.tracking.runs import SweepTracker
from beamclip.tracking.server import connect, told
from beamclip.tracking.sheet import Line, Sheet, duration, measured_sheet, published_sheet
from beamclip.tracking.students import fetch_settings, fetch_student
from beamclip.tracking.table import heading, render
from beamclip.tracking.value_plot import value_plot

__all__ = [
    "Artifacts",
    "Cell",
    "Comparison",
    "Line",
    "PublishedResult",
    "Row",
    "Sheet",
    "SweepTracker",
    "compare",
    "connect",
    "cost_plot",
    "duration",
    "effect_rows",
    "effects",
    "effects_line",
    "effects_plot",
    "fetch_settings",
    "fetch_student",
    "heading",
    "load_published",
    "measured_sheet",
    "notes",
    "over_seeds",
    "parallel_plot",
    "published_sheet",
    "render",
    "temperature_plot",
    "told",
    "value_plot",
    "write_published",
]
