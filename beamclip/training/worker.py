"""What every worker of a run does: train, check on val after each epoch, evaluate once at the end."""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from beamclip.config import Experiment, UserError
from beamclip.evaluation import Evaluation, accuracy, save_probe, zero_shot_logits
from beamclip.teachers.tower import images_encoded
from beamclip.training.assets import Assets
from beamclip.training.checkpoints import load_checkpoint, save_checkpoint
from beamclip.training.context import Context
from beamclip.training.loop import TrainingDiverged, first_bad_step, train_epoch
from beamclip.training.probing import labelled_features, probe_student
from beamclip.training.run import Run, build_run


def run_worker(experiment: Experiment, assets: Assets, context: Context) -> None:
    """Train and evaluate one run; call it on every worker with the same arguments.

    Goes on from `context.checkpoint` exactly where that was written. Reports once an epoch and once at the end, on every rank.

    Raises:
        TrainingDiverged: the loss or the student's features are no longer numbers.
        UserError: a store is damaged.
    """
    run = build_run(experiment, assets, context)
    done: dict[str, Any] = {"epoch": 0, "finished": False}
    if context.checkpoint is not None:
        m = run.machinery
        done = load_checkpoint(context.checkpoint, run.student, m.objective, m.optimiser, m.schedule)
    for epoch in range(done["epoch"], experiment.optimiser.epochs):
        _one_epoch(run, epoch)
    if not done["finished"]:
        _finish(run)


def _one_epoch(run: Run, epoch: int) -> None:
    _seed_everything(run.experiment.seed, epoch, run.context.rank)
    result = train_epoch(run.machinery, run.batches(epoch), run.context, first_step=epoch * run.steps_per_epoch)
    run.context.share_buffers(run.student)  # so that all workers evaluate the very student that rank 0 saves
    bad_step = first_bad_step(result.history)
    if bad_step is not None:
        raise TrainingDiverged(f"the loss stopped being a number around step {bad_step}; lower optimiser.lr or set optimiser.clip_norm")
    metrics = {"epoch": epoch + 1, **result.metrics, **_check_on_val(run), "history": result.history}
    _report(run, metrics, epoch + 1)


def _seed_everything(*place: int) -> None:
    """Dropout and the like become a function of seed, epoch and rank, so that a run that goes on needs no random state kept."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))


def _check_on_val(run: Run) -> dict[str, float]:
    try:
        val = labelled_features(run.opened.packed, run.opened.splits.val, run.student, run.pixels, run.context)
    except UserError as error:  # the epoch's last step broke the weights, and no loss was there to show it
        raise TrainingDiverged(str(error)) from None
    assert val.embeddings is not None
    logits = zero_shot_logits(val.embeddings, run.opened.classes.embeddings.to(val.embeddings.device))
    return {"zero_shot/val_top1": accuracy(logits, val.labels)}


def _finish(run: Run) -> None:
    start = time.perf_counter()
    evaluation = probe_student(run.student, run.opened, run.pixels, run.experiment.probe, run.context)
    metrics: dict[str, Any] = {"epoch": run.experiment.optimiser.epochs, "teacher/images_encoded": _encoded(run)}
    if evaluation is not None:
        metrics |= {**evaluation.metrics, "evaluation/seconds": time.perf_counter() - start}
    _report(run, metrics, run.experiment.optimiser.epochs, evaluation)


def _encoded(run: Run) -> int:
    """How many images teachers have encoded inside this trial, in all its workers: none where they read stores."""
    mine = torch.tensor([images_encoded() - run.encoded_before], dtype=torch.float64, device=run.context.device)
    encoded = round(float(run.context.mean(mine).item() * run.context.world_size))
    assert encoded == 0 or run.experiment.views.teacher == "live", f"a trial that reads stores had {encoded} images encoded"
    return encoded


def _report(run: Run, metrics: dict[str, Any], epoch: int, evaluation: Evaluation | None = None) -> None:
    if run.context.rank != 0:
        return run.context.report(metrics, None)
    m = run.machinery
    with tempfile.TemporaryDirectory() as temporary:
        finished = evaluation is not None
        folder = save_checkpoint(Path(temporary), run.student, m.objective, m.optimiser, m.schedule, epoch, finished)
        if evaluation is not None:
            save_probe(evaluation.probe, folder / "probe.safetensors")
        return run.context.report(metrics, folder)
