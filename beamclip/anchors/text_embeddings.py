"""Embed sentences with a text tower once and store the result.

A pass over sentences works in shards, as every other pass does. So a killed pass resumes at its
first unfinished shard.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.anchors.truncation import truncate_texts
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

KIND = "texts"
_SHARD_SIZE = 128
# Up to this many sentences are encoded by the process that has the tower loaded: starting other
# processes would take longer.
_MAX_IN_PROCESS = 2048


@dataclass(frozen=True)
class TextJob:
    """A pass over sentences, in shards of consecutive ones.

    Attributes:
        texts: the sentences as the tower reads them, already truncated.
        teacher: settings to load the teacher from.
        fingerprint: key of the text tower's weights. Every process that loads the tower must find
            the same.
        loaded: the teacher, if this process has it loaded. It is never pickled.
        label: the name of the pass in progress bars.
        on_device: always True: use a GPU if there is one.
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
        """Number of sentences in each shard."""
        starts = range(0, len(self.texts), _SHARD_SIZE)
        return [len(self.texts[start : start + _SHARD_SIZE]) for start in starts]

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Return the function that encodes one shard, given its number.

        Args:
            folder: folder to write shards to.
            threads: number of threads to use.

        Raises:
            UserError: this process loads other weights than `fingerprint`.
        """
        teacher = self.loaded or load_same_teacher(
            self.teacher, threads, lambda tower: tower.text_fingerprint, self.fingerprint
        )
        return lambda index: self._write_shard(teacher, folder, index)

    def _write_shard(self, teacher: Teacher, folder: Path, index: int) -> None:
        start = index * _SHARD_SIZE
        rows = teacher.encode_texts(self.texts[start : start + _SHARD_SIZE]).numpy()
        # Cosines are computed as plain products of rows, so these must have unit length.
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 0.01
        # np.save would append ".npy" to any other ending.
        temporary = folder / f"{_shard_name(index)}.tmp.npy"
        np.save(temporary, rows)
        record = {"index": index, "rows": len(rows)}
        Shards(folder).finish(index, {_shard_name(index): temporary}, record)


def _shard_name(index: int) -> str:
    """Return the name of a shard's .npy file, which holds float32 [rows, D]."""
    return f"rows-{index:05d}.npy"


@dataclass(frozen=True)
class EncodedTexts:
    """Sentences and their text embeddings.

    Attributes:
        rows: sentence -> its row in `embeddings`.
        embeddings: [N, D] fp32, unit length.
        truncated: for each sentence that did not fit into the tower's context, the part that was
            read.
    """

    rows: dict[str, int]
    embeddings: NDArray[np.float32]
    truncated: dict[str, str]

    @classmethod
    def open(cls, store: Store) -> "EncodedTexts":
        """Read a finished store."""
        texts: list[str] = read_json(store.file("texts.json"))
        names = [_shard_name(index) for index in range(store.manifest["shards"])]
        shards = [np.load(store.file(name)) for name in names]
        return cls(
            rows={text: row for row, text in enumerate(texts)},
            embeddings=np.concatenate(shards),
            truncated=read_json(store.file("shortened.json")),
        )

    def of(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of N of the sentences, [N, D]."""
        rows = [self.rows[text] for text in texts]
        return torch.from_numpy(self.embeddings[rows])


def encode_texts_once(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    teacher: Teacher,
    texts: Sequence[str],
    root: Path,
    progress: Progress,
    run: Runner,
    repair: bool = False,
) -> EncodedTexts:
    """Return the embeddings of these sentences, encoding them first if no store has them.

    Args:
        teacher: the teacher whose text tower encodes.
        texts: the sentences, in the order of the store's rows.
        root: folder of all stores.
        progress: called with the progress of the pass.
        run: runs the shards of passes over more than 2,048 sentences; shorter ones run in this
            process.
        repair: encode damaged shards of an existing store again.

    Raises:
        UserError: see `build_once`.
    """
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
    runner = in_process if len(texts) <= _MAX_IN_PROCESS else run

    def build(folder: Path) -> dict[str, Any]:
        truncated = _read_or_truncate(folder / "shortened.json", texts, teacher)
        job = TextJob(
            texts=tuple(truncated.get(text, text) for text in texts),
            teacher=teacher.config,
            fingerprint=key_of(teacher.text_fingerprint),
            loaded=teacher,
        )
        # The records are not needed; the loop makes the generator run.
        for _ in run_shards(job, folder, runner, progress):
            pass
        write_json(folder / "texts.json", list(texts))
        return {"texts": len(texts), "shards": len(job.sizes), "teacher": teacher.name}

    parts = {"tower": teacher.text_fingerprint, "texts": digest, "count": len(texts)}
    return EncodedTexts.open(build_once(root, KIND, parts, build, progress, repair))


def _read_or_truncate(path: Path, texts: Sequence[str], teacher: Teacher) -> dict[str, str]:
    """Return the truncated texts in `path`; compute and save them if the file does not exist.

    A resumed pass finds the file and need not tokenize all sentences again.
    """
    truncated = read_json(path)
    if truncated is None:
        truncated = truncate_texts(texts, teacher.tokenizer)
        write_json(path, truncated)
    return dict(truncated)
