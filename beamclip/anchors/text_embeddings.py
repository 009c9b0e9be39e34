"""Sentences through the text tower, once: work in shards like any other pass, and kept."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.config import TowerConfig
from beamclip.stores import (
    Progress,
    Runner,
    Shards,
    Store,
    build_once,
    in_process,
    key_of,
    read_json,
    run_shards,
    write_json,
)
from beamclip.teachers import Teacher
from beamclip.teachers.loading import load_same_teacher

# Sentences that are longer than a text tower can read, shortened at a word instead of being cut in silence.


Tokenizer = Callable[..., Tensor]
"""open_clip's: texts -> token ids [N, C], padded and cut to the tower's context C, or to `context_length`."""


def shortened(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, str]:
    """The texts that do not fit into the tower's context, each with what is left of it: as many whole words as fit."""
    return {
        text: _shorten(text, tokenizer)
        for text, fits in zip(texts, fit(texts, tokenizer), strict=True)
        if not fits
    }


def fit(texts: Sequence[str], tokenizer: Tokenizer) -> list[bool]:
    """Whether the tower reads each text to its end: with room for one token more, it would read no more tokens."""
    if not texts:
        return []
    pad, last = tokenizer([""])[0, -2:].tolist()
    closed = last != pad  # the last place always holds a special token
    context = tokenizer(list(texts))
    longer = tokenizer(list(texts), context_length=context.shape[1] + 1)
    same: Tensor = _length(context, pad, closed) == _length(longer, pad, closed)
    return [bool(one) for one in same]


def _length(tokens: Tensor, pad: int, closed: bool) -> Tensor:
    """Places up to the last that is not padding, [N]. Others may look like it: CLIP's padding is also its `!` inside a word."""
    read = (tokens[:, :-1] if closed else tokens) != pad
    return (read * torch.arange(1, read.shape[1] + 1)).amax(dim=1)


def _shorten(text: str, tokenizer: Tokenizer) -> str:
    words = text.split()
    end = "." if text.endswith(".") else ""

    def first(count: int) -> str:
        return " ".join(words[:count]).rstrip(" .,;:(-") + end

    too_long = bisect_left(
        range(1, len(words) + 1), True, key=lambda count: not fit([first(count)], tokenizer)[0]
    )
    return first(max(1, too_long))


KIND = "texts"
_SHARD = 128
_FEW = 2048  # the process that has the tower loaded encodes so many itself: others would take longer to start


@dataclass(frozen=True)
class TextJob:
    """Sentences in shards of neighbours.

    Attributes:
        texts: as the tower reads them.
        fingerprint: key of the text tower's; whoever loads it elsewhere must find the same.
        loaded: the teacher, where it is in this process already; it is not sent anywhere.
    """

    texts: tuple[str, ...]
    teacher: TowerConfig
    fingerprint: str
    loaded: Teacher | None = field(default=None, repr=False, compare=False)
    label: str = "prompts"
    on_device: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @property
    def sizes(self) -> Sequence[int]:
        """Sentences in each shard."""
        return [
            len(self.texts[start : start + _SHARD]) for start in range(0, len(self.texts), _SHARD)
        ]

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """The function that encodes one shard."""
        teacher = self.loaded or load_same_teacher(
            self.teacher, threads, lambda found: found.text_fingerprint, self.fingerprint
        )
        return lambda index: self._write(teacher, folder, index)

    def _write(self, teacher: Teacher, folder: Path, index: int) -> None:
        rows = teacher.encode_texts(self.texts[index * _SHARD : (index + 1) * _SHARD]).numpy()
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 0.01
        temporary = folder / f"{_shard_name(index)}.tmp.npy"
        np.save(temporary, rows)
        Shards(folder).finish(
            index, {_shard_name(index): temporary}, {"index": index, "rows": len(rows)}
        )


def _shard_name(index: int) -> str:
    """An .npy file, float32 [rows, D]."""
    return f"rows-{index:05d}.npy"


@dataclass(frozen=True)
class EncodedTexts:
    """Sentences and what the tower says of them.

    Attributes:
        rows: sentence -> its row in `embeddings`.
        embeddings: [N, D] fp32, unit length.
        shortened: sentences that did not fit, each with what was read of it.
    """

    rows: dict[str, int]
    embeddings: NDArray[np.float32]
    shortened: dict[str, str]

    @classmethod
    def open(cls, store: Store) -> "EncodedTexts":
        """From a finished store."""
        texts: list[str] = read_json(store.file("texts.json"))
        parts = [
            np.load(store.file(_shard_name(index))) for index in range(store.manifest["shards"])
        ]
        return cls(
            {text: row for row, text in enumerate(texts)},
            np.concatenate(parts),
            read_json(store.file("shortened.json")),
        )

    def of(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of some of the sentences, [N, D]."""
        return torch.from_numpy(self.embeddings[[self.rows[text] for text in texts]])


def encode_texts_once(
    teacher: Teacher,
    texts: Sequence[str],
    root: Path,
    progress: Progress,
    run: Runner,
    repair: bool = False,
) -> EncodedTexts:
    """The embeddings of these sentences, from their store, which is made first where it does not exist.

    A killed pass goes on at its first unfinished shard.

    Raises:
        UserError: as `build_once`.
    """
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
    runner = in_process if len(texts) <= _FEW else run

    def build(folder: Path) -> dict[str, Any]:
        cut = _kept(folder / "shortened.json", lambda: shortened(texts, teacher.tokenizer))
        job = TextJob(
            tuple(cut.get(text, text) for text in texts),
            teacher.config,
            key_of(teacher.text_fingerprint),
            teacher,
        )
        for _ in run_shards(job, folder, runner, progress):
            pass
        write_json(folder / "texts.json", list(texts))
        return {"texts": len(texts), "shards": len(job.sizes), "teacher": teacher.name}

    parts = {"tower": teacher.text_fingerprint, "texts": digest, "count": len(texts)}
    return EncodedTexts.open(build_once(root, KIND, parts, build, progress, repair))


def _kept(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What a JSON file holds, made and written first where there is none."""
    kept = read_json(path)
    if kept is None:
        kept = make()
        write_json(path, kept)
    return dict(kept)
