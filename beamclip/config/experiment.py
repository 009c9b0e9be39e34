"""The settings of an experiment as one frozen tree. Imports no torch and no ray."""

from pydantic import Field, model_validator

from beamclip.config.anchors import AnchorsConfig
from beamclip.config.base import Count, Strict
from beamclip.config.data import BalanceConfig, DataConfig
from beamclip.config.objective import ObjectiveConfig
from beamclip.config.probe import ProbeConfig
from beamclip.config.student import OptimizerConfig, ScalingConfig, StudentConfig
from beamclip.config.teacher import TeacherConfig, TowerConfig
from beamclip.config.views import ViewsConfig


class StorageConfig(Strict):
    """Where stores and runs are kept."""

    path: str | None = None
    """Folder or URI for runs and checkpoints; default $BEAMCLIP_STORAGE, else ~/beamclip."""
    cache: str | None = None
    """Folder for stores, shared by all nodes; default $BEAMCLIP_CACHE, else `stores` in the storage
    folder."""
    keep_checkpoints: Count = 1
    """Number of checkpoints to keep for each trial, the newest ones."""


class TrackingConfig(Strict):
    """Where results are written."""

    uri: str | None = None
    """MLflow tracking URI; default a sqlite file next to the artifacts."""


class Experiment(Strict):
    """The settings of one run, or those that all trials of a sweep share.

    Attributes:
        seed: seed of the student's weights and the order of samples.
    """

    # The bound leaves room for seeds derived from it by addition, as with `--seeds`.
    seed: int = Field(0, ge=0, le=2**62)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    teacher: TeacherConfig = TeacherConfig()
    anchors: AnchorsConfig = AnchorsConfig()
    balance: BalanceConfig = BalanceConfig()
    student: StudentConfig = StudentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = Field(OptimizerConfig(), serialization_alias="optimiser")
    probe: ProbeConfig = ProbeConfig()
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check_sections_fit_together(self) -> "Experiment":
        # One section against another. What concerns a single section is checked there.
        self._check_batch_size()
        self.scaling.check_gpus()
        if self.student.image_size > self.data.image_size:
            raise ValueError(
                f"student.image_size {self.student.image_size} is larger than the stored images of "
                f"data.image_size {self.data.image_size}; store larger images or train on smaller "
                "ones"
            )
        if self.data.source == "demo" and self.data.path is not None:
            raise ValueError("data.source is demo, which needs no data.path; drop one of the two")
        for other in self.teacher.others:
            if other.prompt_set is not None:
                self.anchors.members(other.prompt_set)
        self._check_views()
        return self

    def _check_batch_size(self) -> None:
        batch = self.optimizer.batch_size
        workers = self.scaling.workers
        if batch % workers:
            # The next smaller multiple, or one image for each worker if that would be 0.
            divisible = max(batch - batch % workers, workers)
            raise ValueError(
                f"optimizer.batch_size {batch} can't be shared evenly by scaling.workers "
                f"{workers}; {divisible} can"
            )
        if batch == workers:
            raise ValueError(
                f"optimizer.batch_size {batch} gives each of scaling.workers {workers} one image, "
                "which is too few for batch norm and for objectives that compare images; "
                f"give {2 * workers} or more"
            )

    def _check_views(self) -> None:
        needs = self.objective.requirements
        views = self.student_views
        if needs.views > 1 and not views.resolve().random:
            key = "views.recipe" if self.views.pair_recipe is None else "views.pair_recipe"
            raise ValueError(
                f"objective.name {self.objective.name} compares {needs.views} views of an image, "
                f"but those of {key} {views.recipe} are all the same; choose another recipe"
            )
        if needs.embeddings and needs.views > views.stored and views.teacher == "same":
            raise ValueError(
                f"objective.name {self.objective.name} needs the teacher's embeddings of "
                f"{needs.views} views of each image, but views.stored is {views.stored}; "
                "raise it, or set views.teacher to center"
            )

    @property
    def student_views(self) -> ViewsConfig:
        """The views the student is trained on.

        These are the settings `views`, but `views.pair_recipe` is their recipe if the objective
        compares several views of an image.
        """
        pair_recipe = self.views.pair_recipe
        if self.objective.requirements.views == 1 or pair_recipe is None:
            return self.views
        return self.views.model_copy(update={"recipe": pair_recipe})

    @property
    def teachers(self) -> tuple[TowerConfig, ...]:
        """The teachers the objective uses; the first teacher is always among them."""
        if self.objective.requirements.all_teachers:
            return self.teacher.all()
        return (self.teacher,)
