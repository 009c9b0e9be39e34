"""`beamclip doctor`: check everything that a sweep needs, and report what is wrong."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from beamclip.cli.options import experiment_from_options
from beamclip.config import Experiment, UserError
from beamclip.stores.paths import check_writable, storage_root, stores_root, tracking_uri
from beamclip.sweep.reference_runs import demo_teacher_warning

_EXAMPLES = 3
"""Number of class names that the line about the data shows."""

Check = Callable[[Experiment], str]
"""Returns a description of what was found, or raises UserError."""


def run_doctor(options: argparse.Namespace) -> int:
    """Check the experiment given by the options; return 1 if a check fails, else 0."""
    experiment = experiment_from_options(options)
    if options.upgrade_tracking:
        from beamclip.tracking import upgrade_tracking

        print(upgrade_tracking(tracking_uri(experiment)))
        return 0
    return run_checks(experiment)


def run_checks(experiment: Experiment) -> int:
    """Run every check and print a line for each.

    Returns:
        1 if something is wrong, else 0.
    """
    failed = 0
    for name, check in CHECKS.items():
        # Flushed, because the next check may take a while.
        try:
            print(f"✓ {name:10} {check(experiment)}", flush=True)
        except UserError as error:
            print(f"✗ {name:10} {error}", flush=True)
            failed += 1
    if failed:
        print("\nfix the lines marked ✗ and run beamclip doctor again")
        return 1
    print("\nready")
    return 0


def _check_storage(experiment: Experiment) -> str:
    check_writable(experiment)
    return f"runs in {storage_root(experiment)}, stores in {stores_root(experiment)}"


def _check_tracking(experiment: Experiment) -> str:
    from beamclip.tracking import describe_tracking

    return describe_tracking(tracking_uri(experiment))


def _check_data(experiment: Experiment) -> str:
    from beamclip.data import open_source
    from beamclip.data.gray import describe_gray

    source = open_source(experiment.data)
    notes = "".join(f"; {note}" for note in source.notes)
    return (
        f"{len(source.names)} classes, "
        f"{source.count('train')} train, {source.count('test')} test images"
        f"{describe_gray(source, experiment.data)}; "
        f"{describe_classes(source.names, source.keys, experiment.data.class_names)}"
        f"{notes}"
    )


def describe_classes(
    names: Sequence[str], keys: Sequence[str | None], class_names: str | None
) -> str:
    """Return the first class names, the list they are from, and the format in which it was read.

    Args:
        names: in label order.
        keys: WordNet ids of the classes; None where there is none.
        class_names: the setting `data.class_names`.
    """
    from beamclip.data.class_names import form_of_class_list

    examples = []
    for name, key in list(zip(names, keys, strict=True))[:_EXAMPLES]:
        # A name may have commas: `tench, Tinca tinca`.
        shown = repr(name) if "," in name else name
        examples.append(f"{shown} ({key})" if key else shown)
    text = f"class names {', '.join(examples)}{', …' if len(names) > _EXAMPLES else ''}"
    if class_names is not None:
        text += f" from {class_names} (format: {form_of_class_list(Path(class_names))})"
    elif all(name.strip().isdecimal() for name in names):
        text += "; a teacher needs words: give them as data.class_names"
    return text


def _check_teacher(experiment: Experiment) -> str:
    warning = demo_teacher_warning(experiment)
    if warning:
        raise UserError(warning)
    if experiment.teacher.model == "demo":
        return "the demo's own; training it takes about a minute"
    import torch

    from beamclip.teachers import load_teacher

    lines = []
    for tower in experiment.teachers:
        if tower.model == "demo":
            continue
        teacher = load_teacher(tower, torch.device("cpu"))
        lines.append(
            f"{teacher.name}: {teacher.input_description}, embeddings of {teacher.width} numbers"
        )
    return "; ".join(lines)


def _check_student(experiment: Experiment) -> str:
    from beamclip.students import build_student

    # Only the projector depends on the width of the embeddings, and it is not counted here.
    any_width = 64
    student = build_student(experiment.student, any_width, experiment.seed)
    parameters = sum(parameter.numel() for parameter in student.backbone.parameters())
    return f"{experiment.student.backbone}: {parameters / 1e6:.1f} M parameters"


def _check_devices(experiment: Experiment) -> str:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    # With RAY_ADDRESS=local, Ray starts a cluster on this machine.
    joins_cluster = os.environ.get("RAY_ADDRESS", "") not in ("", "local")
    if experiment.scaling.gpus_per_worker and not gpus and not joins_cluster:
        raise UserError(
            "scaling.gpus_per_worker asks for GPUs and torch sees none on this machine; "
            "use 0, or join a cluster with RAY_ADDRESS"
        )
    if gpus:
        return ", ".join(gpus)
    return f"no GPU; {os.cpu_count()} CPU cores, torch {torch.__version__}"


def _check_ray(experiment: Experiment) -> str:
    from beamclip.distributed.cluster import concurrent_trials, connect, disconnect

    joined = connect()
    try:
        count = concurrent_trials(experiment)
    finally:
        disconnect()
    trials = "1 trial" if count == 1 else f"{count} trials"
    cluster = "joined the cluster" if joined else "started a local cluster"
    return f"{cluster}; {trials} at a time"


CHECKS: dict[str, Check] = {
    "storage": _check_storage,
    "tracking": _check_tracking,
    "data": _check_data,
    "teacher": _check_teacher,
    "student": _check_student,
    "devices": _check_devices,
    "ray": _check_ray,
}
