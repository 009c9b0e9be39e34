"""Measure how much accuracy a teacher loses when the images are stored as JPEGs.

    python tests/benchmarks/jpeg.py --data DIR --teacher local-dir:FOLDER [--quality 75] \
        [--images 4000] [--write FOLDER]

DIR holds the original images, for example CIFAR-10 as torchvision stores it. The teacher encodes
the first test images twice: as they are, and re-encoded as JPEG (Pillow's default, color at half
the resolution). For both, the script prints the zero-shot accuracy with "a photo of a NAME.", and
the accuracy of k-NN (k = 20) and of scikit-learn's logistic regression, which are fitted on the
first half of the images and scored on the second.

`--write` also saves all images re-encoded as parquet files, for `one_run.py --data FOLDER`.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from beamclip.config import RECIPES, DataConfig, TeacherConfig
from beamclip.data import Source, draw, open_source
from beamclip.data.augmentation.render import render
from beamclip.data.decode import load_square_rgb
from beamclip.evaluation import knn_predict
from beamclip.teachers import Teacher, load_teacher

Pixels = np.ndarray


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Return the pixels as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def embed_images(teacher: Teacher, pixels: list[Pixels]) -> Tensor:
    """Return the teacher's embeddings of images that all have the same size."""
    parts = []
    for start in range(0, len(pixels), 100):
        images = torch.from_numpy(np.stack(pixels[start : start + 100]))
        ids = np.arange(len(images))
        views = draw(RECIPES["center"], ids, np.zeros_like(ids), 0)
        parts.append(teacher.encode_images(render(images, views, teacher.pixels)))
    return torch.cat(parts)


def describe_accuracies(embeddings: Tensor, anchors: Tensor, labels: Tensor) -> str:
    """Return the zero-shot, k-NN and logistic regression accuracies as text, in percent."""
    half = len(labels) // 2
    zero_shot = ((embeddings @ anchors.T).argmax(-1) == labels).float().mean()
    nearest = knn_predict(embeddings[half:], embeddings[:half], labels[:half], [20], 0.07)[0]
    knn = (nearest == labels[half:]).float().mean()
    regression = LogisticRegression(C=10, max_iter=1000).fit(embeddings[:half], labels[:half])
    logistic = regression.score(embeddings[half:], labels[half:])
    return (
        f"zero-shot {100 * zero_shot:.1f}, k-NN {100 * knn:.1f}, "
        f"logistic regression {100 * logistic:.1f}"
    )


def write(source: Source, encode: Callable[[Pixels], bytes], folder: Path, side: int) -> None:
    """Write all images to parquet files that `data.source: auto` can read."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        items = list(source.items(split))
        images = [{"bytes": encode(load_square_rgb(item.image, side))} for item in items]
        schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
        table = pa.table({"image": images, "label": [item.label for item in items]}, schema=schema)
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    (folder / "classes.txt").write_text("\n".join(source.names) + "\n")
    print(f"written to {folder}; use it with --set data.class_names={folder}/classes.txt")


def main() -> None:
    """Print the accuracies on the original images and on the JPEGs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    source = open_source(DataConfig(source="auto", path=options.data, image_size=options.side))
    items = list(source.items("test", 0, options.images))
    originals = [load_square_rgb(item.image, options.side) for item in items]
    labels = torch.tensor([item.label for item in items])
    files = [encode_jpeg(pixels, options.quality) for pixels in originals]
    teacher = load_teacher(TeacherConfig(model=options.teacher), torch.device("cpu"))
    anchors = teacher.encode_texts([f"a photo of a {name}." for name in source.names])
    size = np.mean([len(file) for file in files])
    print(f"{len(items)} test images, {size:.0f} bytes each as JPEG of quality {options.quality}")
    reloaded = [load_square_rgb(file, options.side) for file in files]
    for name, pixels in (("as they are", originals), ("as JPEG", reloaded)):
        accuracies = describe_accuracies(embed_images(teacher, pixels), anchors, labels)
        print(f"{name}: {accuracies}", flush=True)
    if options.write:
        write(
            source, lambda pixels: encode_jpeg(pixels, options.quality), options.write, options.side
        )


if __name__ == "__main__":
    main()
