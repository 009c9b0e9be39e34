"""Where a batch comes from: training images and teachers' embeddings, read from memory maps, kept on the device, or made on the spot."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from beamclip.data import PackedImages, ViewParameters
from beamclip.data.transfer import to_device
from beamclip.data.views import render
from beamclip.teachers import Embeddings, Teacher
from beamclip.training.batches import Ids

_SHARE = 0.5  # of the device's free memory; training needs the rest
_CHUNK = 1024


class Images(Protocol):
    """Training images by sample id."""

    def take(self, ids: Ids) -> Tensor:
        """uint8 [B, S, S, 3] on the device."""


class TeacherSide(Protocol):
    """What a teacher says of views."""

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """Embeddings of these samples' view, [B, D] float32 on the device; images and parameters say what it looks like."""


class MappedImages:
    """Read from the packed store batch by batch."""

    def __init__(self, packed: PackedImages, device: torch.device) -> None:
        self._packed, self._device = packed, device

    def take(self, ids: Ids) -> Tensor:
        """See `Images`."""
        return to_device(torch.from_numpy(self._packed.read(ids)), self._device)


class ResidentImages:
    """All training images in the device's memory: a batch is a gather."""

    def __init__(self, packed: PackedImages, ids: Ids, device: torch.device) -> None:
        self._ids = ids
        side = packed.image_size
        self._images = torch.empty(len(ids), side, side, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(ids), _CHUNK):
            self._images[start : start + _CHUNK] = torch.from_numpy(packed.read(ids[start : start + _CHUNK])).to(device)
        packed.release()

    def take(self, ids: Ids) -> Tensor:
        """See `Images`."""
        rows = torch.from_numpy(np.searchsorted(self._ids, ids))
        return self._images[to_device(rows, self._images.device)]


class MappedEmbeddings:
    """Read from the embedding store batch by batch."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored, self._device = stored, device

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        return to_device(torch.from_numpy(self._stored.gather(ids, view)), self._device)


class ResidentEmbeddings:
    """All embeddings in the device's memory."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored = stored
        self._rows = torch.from_numpy(stored.all()).to(device)

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        rows = torch.from_numpy(self._stored.rows_of(ids))
        return self._rows[to_device(rows, self._rows.device), view].float()


class LiveTeacher:
    """Encodes every view when it is needed."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        return self._teacher.encode_images(render(images, parameters, self._teacher.pixels)).clone()


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on a device: a GPU's memory holds them beside what training needs."""
    return device.type == "cuda" and size < _SHARE * torch.cuda.mem_get_info(device)[0]
