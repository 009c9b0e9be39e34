"""What every worker of a run does: train, check on val after each epoch, evaluate once at the end."""

import hashlib
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from beamclip.config import Experiment, UserError
from beamclip.evaluation import Evaluation, accuracy, save_evaluation, save_probe, zero_shot_logits
from beamclip.preparation.assets import Assets
from beamclip.students import TrainingCost
from beamclip.teachers.tower import images_encoded
from beamclip.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from beamclip.training.context import Context
from beamclip.training.evaluate import labelled_features, probe_student
from beamclip.training.loop import TrainingDiverged, train_epoch
from beamclip.training.setup import Run, build_run


def run_worker(experiment: Experiment, assets: Assets, context: Context) -> None:
    """Train and evaluate one run; call it on every worker with the same arguments.

    Goes on from `context.checkpoint` exactly where that was written. Reports once an epoch and once at the end, on every rank. A run
    that had come to its end is evaluated again: whoever asks may never have heard its last report.

    Raises:
        TrainingDiverged: the loss or the student's features are no longer numbers.
        UserError: a store is damaged.
    """
    run = build_run(experiment, assets, context)
    done = Progress()
    if context.checkpoint is not None:
        m = run.machinery
        done = load_checkpoint(
            context.checkpoint, run.student, m.objective, m.optimiser, m.schedule
        )
    while done.epoch < experiment.optimiser.epochs:
        done = _one_epoch(run, done)
    _finish(run, done)


def _one_epoch(run: Run, before: Progress) -> Progress:
    """Train, check and report. Returns how far the run then is."""
    epoch = before.epoch
    _seed_everything(run.experiment.seed, epoch, run.context.rank)
    result = train_epoch(
        run.machinery, run.batches(epoch), run.context, first_step=epoch * run.steps_per_epoch
    )
    run.context.share_buffers(
        run.student
    )  # so that all workers evaluate the very student that rank 0 saves
    if result.bad_step is not None:
        raise _diverged(run, epoch, result.bad_step)
    done = Progress(
        epoch + 1,
        before.seconds + result.seconds * run.context.world_size,
        before.encoded + _encoded(run),
    )
    metrics = {
        "epoch": done.epoch,
        **result.metrics,
        **_check_on_val(run),
        **_cost(run, done),
        "history": result.history,
    }
    _report(run, metrics, done)
    return done


def _diverged(run: Run, epoch: int, bad_step: int) -> TrainingDiverged:
    step, ids = epoch * run.steps_per_epoch + bad_step + 1, run.feed.global_ids(epoch, bad_step)
    config = run.experiment.model_dump(mode="json")
    evidence = {"step": step, "epoch": epoch + 1, "samples": ids.tolist(), "config": config}
    return TrainingDiverged(
        f"the loss stopped being a number at step {step}; lower optimiser.lr or set optimiser.clip_norm",
        evidence,
    )


def _cost(run: Run, done: Progress) -> dict[str, float]:
    """What a student has cost, the one it started from included, whose part stands beside it."""
    costs = {f"cost/{name}": value for name, value in asdict(_spent(run, done)).items()}
    start = {f"cost/start_{name}": value for name, value in asdict(run.spent_before).items()}
    return costs | (start if any(start.values()) else {})


def _spent(run: Run, done: Progress) -> TrainingCost:
    views, needs, trained = (
        run.experiment.shown,
        run.experiment.objective.needs,
        len(run.opened.trained),
    )
    stored = views.stored if views.teacher == "same" and views.resolve().random else 1
    taught = len(run.opened.teachers) * trained * stored if needs.embeddings else 0
    seen = done.epoch * run.steps_per_epoch * run.experiment.optimiser.batch_size
    if needs.embeddings and views.teacher == "live":
        taught = seen * needs.views * len(run.opened.teachers)
    return run.spent_before + TrainingCost(done.seconds, seen, taught)


def _seed_everything(*place: int) -> None:
    """Dropout and the like become a function of seed, epoch and rank, so that a run that goes on needs no random state kept."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))


def _check_on_val(run: Run) -> dict[str, float]:
    try:
        val = labelled_features(
            run.opened.packed, run.opened.splits.val, run.student, run.pixels, run.context
        )
    except (
        UserError
    ) as error:  # the epoch's last step broke the weights, and no loss was there to show it
        raise TrainingDiverged(str(error)) from None
    if not run.experiment.objective.needs.projected:
        return {}  # its embeddings were never brought near the teacher's
    assert val.embeddings is not None
    logits = zero_shot_logits(
        val.embeddings, run.opened.classes.embeddings.to(val.embeddings.device)
    )
    return {"zero_shot/val_top1": accuracy(logits, val.labels)}


def _finish(run: Run, done: Progress) -> None:
    start = time.perf_counter()
    projected = run.experiment.objective.needs.projected
    evaluation = probe_student(
        run.student, run.opened, run.pixels, run.experiment.probe, run.context, projected
    )
    metrics: dict[str, Any] = {
        "epoch": done.epoch,
        "teacher/images_encoded": done.encoded,
        **_cost(run, done),
    }
    if evaluation is not None:
        metrics |= {**evaluation.metrics, "evaluation/seconds": time.perf_counter() - start}
    _report(run, metrics, done, evaluation)


def _encoded(run: Run) -> int:
    """How many images teachers have encoded since this was asked last, in all workers of the trial: none where they read stores."""
    mine = torch.tensor(
        [images_encoded() - run.encoded_before], dtype=torch.float64, device=run.context.device
    )
    run.encoded_before = images_encoded()
    encoded = round(float(run.context.mean(mine).item() * run.context.world_size))
    assert encoded == 0 or run.experiment.views.teacher == "live", (
        f"a trial that reads stores had {encoded} images encoded"
    )
    return encoded


def _report(
    run: Run, metrics: dict[str, Any], done: Progress, evaluation: Evaluation | None = None
) -> None:
    if run.context.rank != 0:
        return run.context.report(metrics, None)
    m = run.machinery
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_checkpoint(
            Path(temporary),
            run.student,
            m.objective,
            m.optimiser,
            m.schedule,
            done,
            _spent(run, done),
        )
        if evaluation is not None:
            save_probe(evaluation.probe, folder / "probe.safetensors")
            save_evaluation(evaluation, folder, run.opened.classes.names)
        return run.context.report(metrics, folder)
