"""Images: read from a source, packed once into a memory-mapped store, and split in three.

A sample's id is its row in the packed store. After packing, images are known by their ids alone.
"""

from beamclip.data.augmentation.sample import ViewParameters, draw
from beamclip.data.base import Item, Source, Split
from beamclip.data.class_names import read_class_names
from beamclip.data.packed import PackedImages, open_packed
from beamclip.data.packing import pack
from beamclip.data.sources.demo import DIGIT_NAMES, DemoSource, TeacherScenes, teacher_scenes
from beamclip.data.sources.open import open_source
from beamclip.data.splits import Splits, even_subset, split, val_note

__all__ = [
    "DIGIT_NAMES",
    "DemoSource",
    "Item",
    "PackedImages",
    "Source",
    "Split",
    "Splits",
    "TeacherScenes",
    "ViewParameters",
    "draw",
    "even_subset",
    "open_packed",
    "open_source",
    "pack",
    "read_class_names",
    "split",
    "teacher_scenes",
    "val_note",
]
