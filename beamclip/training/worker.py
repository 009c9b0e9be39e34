"""Run one worker: train, check on val after each epoch, evaluate once at the end."""

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
from beamclip.training.evaluate import labeled_features, probe_student
from beamclip.training.loop import TrainingDiverged, train_epoch
from beamclip.training.setup import Run, build_run


def run_worker(experiment: Experiment, assets: Assets, context: Context) -> None:
    """Train and evaluate one run. Call it on every worker, with the same settings and stores.

    It resumes exactly from `context.checkpoint`. Every rank reports once per epoch and once at the
    end. A run that had already finished is evaluated again, because its last report may have been
    lost.

    Args:
        experiment: settings of the run.
        assets: stores of the run, from `beamclip.preparation.build.prepare`.
        context: context of this worker.

    Raises:
        TrainingDiverged: the loss or the student's features are not finite.
        UserError: a store is damaged.
    """
    run = build_run(experiment, assets, context)
    progress = Progress()
    if context.checkpoint is not None:
        state = run.train_state
        progress = load_checkpoint(
            context.checkpoint, run.student, state.objective, state.optimizer, state.schedule
        )
    while progress.epoch < experiment.optimizer.epochs:
        progress = _run_epoch(run, progress)
    _evaluate(run, progress)


def _run_epoch(run: Run, progress: Progress) -> Progress:
    """Train for one epoch, check on val and report. Returns the new progress."""
    epoch = progress.epoch
    _seed_everything(run.experiment.seed, epoch, run.context.rank)
    first_step = epoch * run.steps_per_epoch
    result = train_epoch(run.train_state, run.batches(epoch), run.context, first_step)
    # Rank 0 saves its student, so all workers must evaluate that one.
    run.context.share_buffers(run.student)
    if result.bad_step is not None:
        raise _divergence(run, epoch, result.bad_step)
    progress = Progress(
        epoch + 1,
        progress.seconds + result.seconds * run.context.world_size,
        progress.encoded + _count_encoded(run),
    )
    metrics = {
        "epoch": progress.epoch,
        **result.metrics,
        **_check_on_val(run),
        **_cost_metrics(run, progress),
        "history": result.history,
    }
    _report(run, metrics, progress)
    return progress


def _divergence(run: Run, epoch: int, bad_step: int) -> TrainingDiverged:
    step = epoch * run.steps_per_epoch + bad_step + 1
    evidence = {
        "step": step,
        "epoch": epoch + 1,
        "samples": run.loader.global_batch_ids(epoch, bad_step).tolist(),
        "config": run.experiment.model_dump(mode="json"),
    }
    return TrainingDiverged(
        f"the loss is not finite at step {step}; lower optimizer.lr or set optimizer.clip_norm",
        evidence,
    )


def _cost_metrics(run: Run, progress: Progress) -> dict[str, float]:
    """Return the total cost and, if the run started from a trained student, that student's cost."""
    costs = asdict(_training_cost(run, progress))
    metrics = {f"cost/{name}": value for name, value in costs.items()}
    initial_costs = asdict(run.initial_cost)
    if any(initial_costs.values()):
        metrics |= {f"cost/start_{name}": value for name, value in initial_costs.items()}
    return metrics


def _training_cost(run: Run, progress: Progress) -> TrainingCost:
    """Return the cost of the student so far, including the student it started from."""
    views = run.experiment.student_views
    requirements = run.experiment.objective.requirements
    teachers = len(run.opened.teachers)
    steps = progress.epoch * run.steps_per_epoch
    images_seen = steps * run.experiment.optimizer.batch_size
    # Images that teachers would have to encode if no other run used the stores.
    teacher_images = 0
    if requirements.embeddings and views.teacher == "live":
        teacher_images = images_seen * requirements.views * teachers
    elif requirements.embeddings:
        # A recipe without randomness, or `teacher: center`, needs a single stored view.
        random_views = views.teacher == "same" and views.resolve().random
        stored_views = views.stored if random_views else 1
        teacher_images = teachers * len(run.opened.trained) * stored_views
    return run.initial_cost + TrainingCost(progress.seconds, images_seen, teacher_images)


def _seed_everything(*parts: int) -> None:
    """Seed torch with a hash of these numbers.

    With seed, epoch and rank as the numbers, random numbers inside an epoch (dropout) depend on
    nothing else, and a resumed run needs no saved random state.
    """
    # A sum of the numbers would give (0, 1, 0) and (0, 0, 1) the same seed; a hash does not. Seven
    # of its bytes fit into torch's 64-bit seed.
    digest = hashlib.sha256(repr(parts).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))


def _check_on_val(run: Run) -> dict[str, float]:
    """Return the zero-shot accuracy on val, or {} if the objective does not train embeddings.

    Raises:
        TrainingDiverged: the features are not finite.
    """
    try:
        val = labeled_features(
            run.opened.packed, run.opened.splits.val, run.student, run.pixels, run.context
        )
    except UserError as error:
        # The epoch's last step broke the weights, and there is no later loss to show it.
        raise TrainingDiverged(str(error)) from None
    if not run.experiment.objective.requirements.projected:
        return {}
    assert val.embeddings is not None
    anchors = run.opened.classes.embeddings.to(val.embeddings.device)
    logits = zero_shot_logits(val.embeddings, anchors)
    return {"zero_shot/val_top1": accuracy(logits, val.labels)}


def _evaluate(run: Run, progress: Progress) -> None:
    """Evaluate the trained student and report the result."""
    start = time.perf_counter()
    projected = run.experiment.objective.requirements.projected
    evaluation = probe_student(
        run.student, run.opened, run.pixels, run.experiment.probe, run.context, projected
    )
    metrics: dict[str, Any] = {
        "epoch": progress.epoch,
        "teacher/images_encoded": progress.encoded,
        **_cost_metrics(run, progress),
    }
    if evaluation is not None:
        seconds = time.perf_counter() - start
        metrics |= {**evaluation.metrics, "evaluation/seconds": seconds}
    _report(run, metrics, progress, evaluation)


def _count_encoded(run: Run) -> int:
    """Return the images that teachers have encoded since the last call, in all workers.

    A run that reads its teachers' embeddings from stores must not encode any.
    """
    encoded_now = images_encoded()
    new_images = encoded_now - run.encoded_before
    run.encoded_before = encoded_now
    # The sum over the workers. float64 holds such counts exactly.
    count = torch.tensor([new_images], dtype=torch.float64, device=run.context.device)
    encoded = round(float(run.context.mean(count).item() * run.context.world_size))
    assert encoded == 0 or run.experiment.views.teacher == "live", (
        f"a trial that reads stores encoded {encoded} images"
    )
    return encoded


def _report(
    run: Run, metrics: dict[str, Any], progress: Progress, evaluation: Evaluation | None = None
) -> None:
    """Report the metrics, on rank 0 with a checkpoint and the evaluation's files."""
    if run.context.rank != 0:
        run.context.report(metrics, None)
        return
    state = run.train_state
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_checkpoint(
            Path(temporary),
            run.student,
            state.objective,
            state.optimizer,
            state.schedule,
            progress,
            spent=_training_cost(run, progress),
        )
        if evaluation is not None:
            save_probe(evaluation.probe, folder / "probe.safetensors")
            save_evaluation(evaluation, folder, run.opened.classes.names)
        # Inside the block: the folder is deleted after it.
        run.context.report(metrics, folder)
