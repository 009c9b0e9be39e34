"""What storing images as JPEGs takes from a teacher that never saw such files, and the same images as JPEGs for other runs.

    python tests/benchmarks/jpeg.py --data DIR --teacher local-dir:FOLDER [--quality 75] [--images 4000] [--write FOLDER]

DIR holds the original images, CIFAR-10 as torchvision keeps it, say. The first test images are seen by the teacher as they are and
re-encoded (Pillow's default: colour at half the resolution): zero-shot with "a photo of a NAME.", and k-NN (k = 20) and scikit-learn's
logistic regression, fitted on the first half and scored on the second. `--write` leaves all images re-encoded as parquet, for
`one_run.py --data FOLDER`.
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
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def embedded(teacher: Teacher, pixels: list[Pixels]) -> Tensor:
    """What the teacher says of images of one size."""
    parts = []
    for start in range(0, len(pixels), 100):
        images = torch.from_numpy(np.stack(pixels[start : start + 100]))
        ids = np.arange(len(images))
        parts.append(
            teacher.encode_images(
                render(images, draw(RECIPES["center"], ids, np.zeros_like(ids), 0), teacher.pixels)
            )
        )
    return torch.cat(parts)


def judged(embeddings: Tensor, anchors: Tensor, labels: Tensor) -> str:
    half = len(labels) // 2
    zero_shot = (embeddings @ anchors.T).argmax(-1)
    nearest = knn_predict(embeddings[half:], embeddings[:half], labels[:half], [20], 0.07)[0]
    regression = LogisticRegression(C=10, max_iter=1000).fit(embeddings[:half], labels[:half])
    near = (nearest == labels[half:]).float().mean()
    right = regression.score(embeddings[half:], labels[half:])
    return f"zero-shot {100 * (zero_shot == labels).float().mean():.1f}, k-NN {100 * near:.1f}, logistic regression {100 * right:.1f}"


def write(source: Source, change: Callable[[Pixels], bytes], folder: Path, side: int) -> None:
    """All images in parquet files that `data.source: auto` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        items = list(source.items(split))
        images = [{"bytes": change(load_square_rgb(item.image, side))} for item in items]
        schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
        table = pa.table({"image": images, "label": [item.label for item in items]}, schema=schema)
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    (folder / "classes.txt").write_text("\n".join(source.names) + "\n")
    print(f"written to {folder}; give --set data.class_names={folder}/classes.txt with it")


def main() -> None:
    """Print both lines."""
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
    originals, labels = (
        [load_square_rgb(item.image, options.side) for item in items],
        torch.tensor([item.label for item in items]),
    )
    files = [encode_jpeg(one, options.quality) for one in originals]
    teacher = load_teacher(TeacherConfig(model=options.teacher), torch.device("cpu"))
    anchors = teacher.encode_texts([f"a photo of a {name}." for name in source.names])
    print(
        f"{len(items)} test images, {np.mean([len(file) for file in files]):.0f} bytes each as JPEG of quality {options.quality}"
    )
    for name, pixels in (
        ("as they are", originals),
        ("as JPEG", [load_square_rgb(file, options.side) for file in files]),
    ):
        print(f"{name}: {judged(embedded(teacher, pixels), anchors, labels)}", flush=True)
    if options.write:
        write(
            source, lambda pixels: encode_jpeg(pixels, options.quality), options.write, options.side
        )


if __name__ == "__main__":
    main()
