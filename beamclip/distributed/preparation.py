"""Building what a sweep needs, on the cluster, before its first trial."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from beamclip.config import Experiment, UserError, checked
from beamclip.storage import asset_key
from beamclip.stores import Progress

_LOOK_SECONDS = 0.3


class Preparer:
    """Actor that runs the compute half's `prepare` in one thread and says how far it is in another."""

    def __init__(self) -> None:
        self._state: tuple[str, int, int] = ("", 0, 0)

    def progress(self) -> tuple[str, int, int]:
        """(what is being done, how much is done, how much there is)."""
        return self._state

    def prepare(self, experiments: Mapping[str, str], backbones: Sequence[str], root: str, untrained: bool) -> dict[str, Any]:
        """experiments: asset key -> experiment as JSON. Returns `assets` (key -> JSON) and `untrained` (metrics by key)."""
        import torch

        from beamclip.students import check_backbone
        from beamclip.training.assets import prepare
        from beamclip.training.untrained import untrained_metrics

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for name in backbones:
            check_backbone(name)
        assets: dict[str, str] = {}
        metrics: dict[str, float] = {}
        for key, text in experiments.items():
            experiment = checked(Experiment, json.loads(text))
            made = prepare(experiment, Path(root), device, self._show)
            assets[key] = made.to_json()
            if untrained and not metrics:
                self._show("probing the untrained student", 0, 1)
                metrics = untrained_metrics(experiment, made, Path(root), device)
        return {"assets": assets, "untrained": metrics}

    def _show(self, label: str, done: int, total: int) -> None:
        self._state = (label, done, total)


def prepare_on_cluster(planned: Sequence[Experiment], root: Path, untrained: bool, show: Progress) -> dict[str, Any]:
    """Build every store these experiments need. See `Preparer.prepare`.

    Args:
        planned: every cell of the space.
        show: called from this process about three times a second.

    Raises:
        UserError: as one sentence, whatever process it came from.
    """
    experiments = {asset_key(experiment): experiment for experiment in planned}
    backbones = sorted({experiment.student.backbone for experiment in planned})
    wants_gpu = any(experiment.scaling.gpus_per_worker for experiment in experiments.values())
    gpus = 1 if wants_gpu or ray.cluster_resources().get("GPU") else 0  # where none is there yet, an autoscaler brings one
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    # torch would give one thread to an actor that asks for no CPU; the cluster is idle now, so take a node's worth.
    environment = {"env_vars": {"OMP_NUM_THREADS": str(min(cpus, _node_cpus()))}}
    actor = ray.remote(Preparer).options(num_cpus=0, num_gpus=gpus, max_concurrency=2, runtime_env=environment).remote()
    texts = {key: experiment.model_dump_json() for key, experiment in experiments.items()}
    waiting: Sequence[Any] = [actor.prepare.remote(texts, backbones, str(root), untrained)]
    try:
        while not ray.wait(waiting, timeout=_LOOK_SECONDS)[0]:
            show(*ray.get(actor.progress.remote()))
        result: dict[str, Any] = ray.get(waiting[0])
    except ray.exceptions.RayTaskError as error:
        raise (UserError(str(error.cause)) if isinstance(error.cause, UserError) else error) from None
    finally:
        ray.kill(actor)
    return result


def _node_cpus() -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
