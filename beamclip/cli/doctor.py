"""`beamclip doctor`: everything a sweep will need, tried one by one."""

import os
from collections.abc import Callable

from beamclip.config import Experiment, UserError
from beamclip.config.provenance import without_passwords
from beamclip.stores.paths import check_writable, storage_root, stores_root, tracking_uri
from beamclip.sweep.reference_runs import demo_elsewhere

Check = Callable[[Experiment], str]


def examine(experiment: Experiment) -> int:
    """Run every check, print a line for each. Returns 1 where something is wrong, else 0."""
    results = [_line(name, check, experiment) for name, check in CHECKS.items()]
    good = all(results)
    print("\nready" if good else "\nmend the lines marked ✗ and ask again")
    return 0 if good else 1


def _line(name: str, check: Check, experiment: Experiment) -> bool:
    try:
        print(f"✓ {name:10} {check(experiment)}", flush=True)
        return True
    except UserError as error:
        print(f"✗ {name:10} {error}", flush=True)
        return False


def _storage(experiment: Experiment) -> str:
    check_writable(experiment)
    return f"runs in {storage_root(experiment)}, stores in {stores_root(experiment)}"


def _tracking(experiment: Experiment) -> str:
    from beamclip.tracking import connect

    connect(tracking_uri(experiment))
    return f"{without_passwords(tracking_uri(experiment))} answers"


def _data(experiment: Experiment) -> str:
    from beamclip.data import open_source

    source = open_source(experiment.data)
    counts = ", ".join(f"{source.count(part)} {part}" for part in ("train", "test"))
    return f"{len(source.names)} classes, {counts} images"


def _teacher(experiment: Experiment) -> str:
    if doubt := demo_elsewhere(experiment):
        raise UserError(doubt)
    if experiment.teacher.model == "demo":
        return "the demo's own, trained on the spot in about a minute"
    import torch

    from beamclip.teachers import load_teacher

    teacher = load_teacher(experiment.teacher, torch.device("cpu"))
    return f"{teacher.name}: {teacher.pixels.size} px, {teacher.width} wide, speaks of images and texts"


def _student(experiment: Experiment) -> str:
    from beamclip.students import build_student

    student = build_student(experiment.student, 64, experiment.seed)
    count = sum(p.numel() for p in student.backbone.parameters())
    return f"{experiment.student.backbone}: {count / 1e6:.1f} M parameters"


def _devices(experiment: Experiment) -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    alone = os.environ.get("RAY_ADDRESS", "") in ("", "local")
    if experiment.scaling.gpus_per_worker and not names and alone:
        reason = "scaling.gpus_per_worker asks for GPUs and torch sees none on this machine"
        raise UserError(f"{reason}; use 0, or join a cluster with RAY_ADDRESS")
    return ", ".join(names) or f"no GPU; {os.cpu_count()} CPU cores, torch {torch.__version__}"


def _ray(experiment: Experiment) -> str:
    from beamclip.distributed.cluster import concurrent_trials, connect, disconnect

    joined = connect()
    try:
        count = concurrent_trials(experiment)
    finally:
        disconnect()
    return f"{'joined the cluster' if joined else 'started a local one'}; {count} trial{'s' if count > 1 else ''} at a time"


CHECKS: dict[str, Check] = {
    "storage": _storage,
    "tracking": _tracking,
    "data": _data,
    "teacher": _teacher,
    "student": _student,
    "devices": _devices,
    "ray": _ray,
}
