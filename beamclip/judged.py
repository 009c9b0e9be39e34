"""A data set that a model is judged on, and what is wrong with it before any feature is made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beamclip.config import Experiment, UserError, with_values
from beamclip.data import PackedImages, Splits, split
from beamclip.training.passes import check_neighbours
from beamclip.training.workshop import Workshop


@dataclass(frozen=True)
class Judged:
    """One data set, and the probes on it.

    Attributes:
        name: what it is called in the table.
        transferred: whether `--transfer` named it; else it is the model's own.
    """

    name: str
    experiment: Experiment
    transferred: bool = False

    def check(self, workshop: Workshop) -> None:
        """Find what is wrong with the data as far as it is known without reading an image.

        Raises:
            UserError: there is no such data, or too little of it.
        """
        with self._named():
            count = workshop.source(self.experiment.data).count("train")
            wanted = self.experiment.data.train_images or count
            if wanted > count:
                raise UserError(f"data.train_images is {wanted} but the data has only {count} train images; lower it")
            check_neighbours(self.experiment, wanted)

    def opened(self, workshop: Workshop) -> tuple[PackedImages, Splits]:
        """The images, packed where they were not yet, and their splits.

        Raises:
            UserError: as `pack` and `split`, or there are more neighbours than train images.
        """
        with self._named():
            packed = workshop.packed(self.experiment.data)
            splits = split(packed, self.experiment.data)
            check_neighbours(self.experiment, len(splits.train))
            return packed, splits

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not self.transferred:
                raise
            raise UserError(f"--transfer {self.name}: {_of_other_data(str(error), self.name)}") from None


def _of_other_data(sentence: str, name: str) -> str:
    """What is wrong with other data, with what can be done about it there: `data.class_names` and `--data` are the model's own."""
    where, nameless, _ = sentence.partition(" has no class names")
    if nameless:
        return f"{where}{nameless}; write them into classnames.txt beside tar shards, or into the schema of parquet files (a ClassLabel)"
    return sentence.replace("--data DIR", f"--transfer {name}=DIR")


def own_data(experiment: Experiment) -> Judged:
    """The model's own, called after its folder."""
    return Judged(_called(experiment.data.path) if experiment.data.path else experiment.data.source, experiment)


def _called(path: str) -> str:
    """The last part of a place's name, also where it is `.` or ends in `..`; all of it where it has but one."""
    return Path(path if "://" in path else os.path.abspath(Path(path).expanduser())).name or path


def other_data(name: str, folder: str, experiment: Experiment, side: int, taken: str) -> Judged:
    """The same probes on other data, packed at the model's own size.

    Args:
        side: in px, of the model's images.
        taken: what the model's own data is called.

    Raises:
        UserError: they are called alike, so that a table could hold one of them only.
    """
    if name == taken:
        raise UserError(f"--transfer {name} is what the model's own data is called; give the other one another name")
    values = {"data.source": "auto", "data.path": folder, "data.class_names": None, "data.train_images": None}
    return Judged(name, with_values(experiment, values | {"data.image_size": side, "student.image_size": side}), True)
