"""What an experiment is: one frozen tree of checked values. Nothing here needs torch, ray or a network."""

from pydantic import Field, model_validator

from beamclip.config.base import Count, Strict
from beamclip.config.inputs import AnchorsConfig, BalanceConfig, DataConfig, ViewsConfig
from beamclip.config.objective import ObjectiveConfig
from beamclip.config.probe import ProbeConfig
from beamclip.config.student import OptimiserConfig, ScalingConfig, StudentConfig
from beamclip.config.teacher import TeacherConfig, TowerConfig


class StorageConfig(Strict):
    """Where stores and runs are kept."""

    path: str | None = None
    """Folder or URI for runs and checkpoints; default $BEAMCLIP_STORAGE, else ~/beamclip."""
    cache: str | None = None
    """Folder all nodes see for stores; default $BEAMCLIP_CACHE, else `stores` in the storage folder."""
    keep_checkpoints: Count = 1


class TrackingConfig(Strict):
    """Where results are written."""

    uri: str | None = None
    """MLflow tracking URI; default a sqlite file beside the artifacts."""


class Experiment(Strict):
    """One run, or the settings all trials of a sweep share."""

    seed: int = Field(0, ge=0, le=2**62)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    teacher: TeacherConfig = TeacherConfig()
    anchors: AnchorsConfig = AnchorsConfig()
    balance: BalanceConfig = BalanceConfig()
    student: StudentConfig = StudentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    probe: ProbeConfig = ProbeConfig()
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Experiment":
        batch, workers = self.optimiser.batch_size, self.scaling.workers
        if batch % workers:
            raise ValueError(
                f"optimiser.batch_size {batch} can't be shared evenly by scaling.workers {workers}; "
                f"{batch - batch % workers or workers} can"
            )
        if batch == workers:
            raise ValueError(
                f"optimiser.batch_size {batch} gives each of scaling.workers {workers} one image, which batch norm has no statistics of "
                f"and no image can be compared with; give {2 * workers} or more"
            )
        self.scaling.check_gpus()
        if self.student.image_size > self.data.image_size:
            raise ValueError(
                f"student.image_size {self.student.image_size} is larger than the stored images of "
                f"data.image_size {self.data.image_size}; store larger images or train on smaller ones"
            )
        if self.data.source == "demo" and self.data.path is not None:
            raise ValueError("data.source is demo, which needs no data.path; drop one of the two")
        for other in self.teacher.others:
            if other.prompt_set is not None:
                self.anchors.members(other.prompt_set)
        self._has_enough_views()
        return self

    @property
    def shown(self) -> ViewsConfig:
        """The views that the student is shown: `views`, of `views.pair_recipe` where the objective compares several of an image."""
        pair = self.views.pair_recipe
        if self.objective.needs.views == 1 or pair is None:
            return self.views
        return self.views.model_copy(update={"recipe": pair})

    @property
    def teachers(self) -> tuple[TowerConfig, ...]:
        """Those that the objective listens to; the first one is always among them."""
        return self.teacher.all() if self.objective.needs.all_teachers else (self.teacher,)

    def _has_enough_views(self) -> None:
        needs, views = self.objective.needs, self.shown
        if needs.views > 1 and not views.resolve().random:
            key = "views.recipe" if self.views.pair_recipe is None else "views.pair_recipe"
            raise ValueError(
                f"objective.name {self.objective.name} compares {needs.views} views of an image, but those of {key} {views.recipe} "
                "are all the same; choose another recipe"
            )
        if needs.embeddings and needs.views > views.stored and views.teacher == "same":
            raise ValueError(
                f"objective.name {self.objective.name} needs the teacher's embeddings of {needs.views} views of each image, but "
                f"views.stored is {views.stored}; raise it, or set views.teacher to center"
            )
