"""Measure how often ambiguous class names collide, and how much each prompt set helps.

    python tests/benchmarks/ambiguity.py [--lvis DIR] [--teacher DIR] [--data NAME=SIDE:DIR …] \
        [--imagenet FILE] [--storage DIR]

There are three parts. Each runs if its options are given:

1. `--lvis`: a folder with `embeddings.npy`, real CLIP text embeddings of the LVIS names,
   [1203, D], and `categories.json`. Compares ambiguous names (several noun senses in WordNet) with
   the others: how near is the nearest other name, and how similar in meaning are the neighbors?
2. `--teacher`, an open_clip folder: the same with the teacher's own text embeddings of LVIS, under
   each prompt set. Then the pairs of ImageNet-1K classes that share their first WordNet name (crane
   the bird and crane the machine) or the name that CLIP's authors gave them (two are called
   missile). Under that name alone, both classes of such a pair have the same anchor.
3. `--data` with `--teacher`: zero-shot top-1 of the teacher on the test split of each data set
   (parquet or folders, stored at SIDE px), under each prompt set. `--imagenet FILE` adds the same
   over the thousand classes of ImageNet-1K, for a parquet file with ImageNet-1K labels.

Similarity in meaning is Lin's: 2 I(a) / (I(s) + I(t)), where a is the rarest common ancestor of
both synsets and I is information content in WordNet.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.anchors import AnchorSet, AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import Sense, choose_senses, dataset_classes
from beamclip.anchors.wordnet import ClassName, Lexicon, open_lexicon, open_vocabulary
from beamclip.config import RECIPES, DataConfig, TowerConfig, UserError, built_in_prompt_sets
from beamclip.config.anchors import members_of
from beamclip.data import draw, open_source, pack
from beamclip.data.augmentation.render import render
from beamclip.data.decode import load_square_rgb
from beamclip.data.files import Files
from beamclip.data.sources.parquet import rows_of
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.preparation.embedding_store import embed
from beamclip.sweep.progress import ProgressBars
from beamclip.teachers import Teacher, ViewSet, load_teacher

_NEIGHBORS = 5
Floats = NDArray[np.float32]


def unit(rows: Floats) -> Floats:
    """Return the rows scaled to unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def lin_similarity(lexicon: Lexicon, first: str, second: str) -> float:
    """Return Lin's similarity of two synsets, 0 to 1."""
    common = lexicon.ancestors(first) & lexicon.ancestors(second)
    shared = max(map(lexicon.information_content, common), default=0.0)
    total = lexicon.information_content(first) + lexicon.information_content(second)
    return 2 * shared / max(1e-9, total)


def measure_neighbors(
    anchors: Floats, senses: Sequence[Sense], lexicon: Lexicon
) -> dict[str, list[float]]:
    """Measure the neighbors of every name, separately for ambiguous and other names.

    Returns:
        Under "GROUP: nearest" the cosine to the nearest other name, and under "GROUP: kinship" the
        mean Lin similarity to the nearest five. GROUP is "ambiguous" or "one sense".
    """
    cosines = anchors @ anchors.T
    np.fill_diagonal(cosines, -1)
    groups: dict[str, list[float]] = defaultdict(list)
    for row, sense in enumerate(senses):
        if sense.synset is None:
            continue
        group = "ambiguous" if len(sense.considered) > 1 else "one sense"
        nearest = [senses[i].synset for i in np.argsort(-cosines[row])[:_NEIGHBORS]]
        similarities = [
            lin_similarity(lexicon, sense.synset.id, synset.id)
            for synset in nearest
            if synset is not None
        ]
        groups[f"{group}: nearest"].append(float(cosines[row].max()))
        groups[f"{group}: kinship"].append(float(np.mean(similarities)) if similarities else 0.0)
    return groups


def print_neighbors(title: str, anchors: Floats, senses: Sequence[Sense], lexicon: Lexicon) -> None:
    """Print one line for a set of anchors."""
    groups = measure_neighbors(anchors, senses, lexicon)
    cells = []
    for group in ("ambiguous", "one sense"):
        nearest = np.array(groups[f"{group}: nearest"])
        kinship = np.array(groups[f"{group}: kinship"])
        cells.append(
            f"{len(nearest):4} {100 * (nearest >= 0.95).mean():5.1f} % "
            f"{100 * (nearest >= 0.9).mean():5.1f} % {kinship.mean():6.3f}"
        )
    print(f"{title:14} | {cells[0]} | {cells[1]}")


def homographs(lexicon: Lexicon) -> list[tuple[Sense, Sense]]:
    """Return pairs of ImageNet-1K classes that share a name, each class under that name.

    The name is the first lemma in WordNet, or the name in CLIP's list.
    """
    classes = open_vocabulary("imagenet-1k")
    lemmas = []
    for class_name in classes:
        lemma = lexicon.synset(str(class_name.synset)).lemmas[0]
        lemmas.append(ClassName(lemma, class_name.synset))
    by_lemma = _pairs_of_same_name(choose_senses(lemmas, lexicon))
    return by_lemma + _pairs_of_same_name(choose_senses(classes, lexicon))


def _pairs_of_same_name(senses: Sequence[Sense]) -> list[tuple[Sense, Sense]]:
    by_name: dict[str, list[Sense]] = defaultdict(list)
    for sense in senses:
        by_name[sense.name.lower()].append(sense)
    pairs: list[tuple[Sense, Sense]] = []
    for group in by_name.values():
        pairs += combinations(group, 2)
    return pairs


def build_anchors(
    teacher: Teacher, senses: Sequence[Sense], names: Sequence[str], root: Path, bars: ProgressBars
) -> dict[str, Floats]:
    """Return the anchors of these classes by prompt set, built together."""
    plans = [AnchorSetPlan.of(senses, name, members_of(name, {})) for name in names]
    stores = build_anchor_sets(teacher, plans, root, bars)
    bars.close()
    return {
        name: AnchorSet.open(store).embeddings.numpy()
        for name, store in zip(names, stores, strict=True)
    }


def lvis_senses(lexicon: Lexicon) -> tuple[Sense, ...]:
    """Return LVIS's categories with the senses from LVIS's own annotations."""
    return choose_senses(open_vocabulary("lvis"), lexicon)


def collisions(lvis: Path | None, teacher: Teacher | None, root: Path, bars: ProgressBars) -> None:
    """Run parts 1 and 2 and print their tables."""
    lexicon = open_lexicon()
    senses = lvis_senses(lexicon)
    names = list(built_in_prompt_sets())
    if lvis or teacher:
        columns = f"{'names':>4} {'≥.95':>6} {'≥.90':>8} {'kin':>6}"
        print(
            f"LVIS, {len(senses)} names: cosine to the nearest other name, "
            f"and Lin similarity to the nearest {_NEIGHBORS}"
        )
        print(f"{'':14} | several senses: {columns} | one sense: {columns}")
    if lvis:
        rows = unit(np.load(lvis / "embeddings.npy").astype(np.float32))
        assert len(rows) == len(json.loads((lvis / "categories.json").read_text())) == len(senses)
        print_neighbors("CLIP ViT-B/32", rows, senses, lexicon)
    if teacher is None:
        return
    for name, anchors in build_anchors(teacher, senses, names, root, bars).items():
        print_neighbors(name, anchors, senses, lexicon)
    pairs = homographs(lexicon)
    flat = [sense for pair in pairs for sense in pair]
    shared = ", ".join(sorted({first.name for first, _ in pairs}))
    print(f"\nImageNet-1K, {len(pairs)} pairs of classes with the same first name: {shared}")
    for name, anchors in build_anchors(teacher, flat, names, root, bars).items():
        cosines = (anchors[::2] * anchors[1::2]).sum(1)
        same = (cosines > 1 - 1e-5).sum()
        print(
            f"{name:10} cosine of the two: mean {cosines.mean():.3f}, "
            f"largest {cosines.max():.3f}, identical: {same}"
        )


def zero_shot(
    title: str, side: int, folder: str, teacher: Teacher, root: Path, bars: ProgressBars
) -> None:
    """Run part 3 for one data set and print its accuracies."""
    config = DataConfig(path=folder, image_size=side)
    packed = pack(config, root, bars)
    source = open_source(config)
    stored, _ = embed(teacher, packed, ViewSet.center(packed.test_ids), root, bars)
    images = torch.from_numpy(stored.gather(packed.test_ids, 0))
    labels = torch.from_numpy(packed.labels[packed.test_ids])
    senses = choose_senses(dataset_classes(source.names, source.keys, None), open_lexicon())
    bars.close()
    print(f"\n{title}: zero-shot top-1 of {teacher.name} on {len(labels):,} test images")
    names = list(built_in_prompt_sets())
    for name, anchors in build_anchors(teacher, senses, names, root, bars).items():
        print_accuracy(name, images, torch.from_numpy(anchors), labels)


def imagenet(file: Path, teacher: Teacher, root: Path, bars: ProgressBars) -> None:
    """Run part 3 over the classes of ImageNet-1K and print its accuracies.

    `openai_80` is left out: its 80,000 sentences would take longer than everything else.
    """
    rows = list(rows_of(Files(str(file.parent)), file.name, ""))
    pixels = torch.from_numpy(np.stack([load_square_rgb(image["bytes"], 160) for image, _ in rows]))
    labels = torch.tensor([label for _, label in rows])
    parts = []
    for start in range(0, len(pixels), 64):
        ids = np.arange(start, min(start + 64, len(pixels)))
        views = draw(RECIPES["center"], ids, np.zeros_like(ids), 0)
        parts.append(teacher.encode_images(render(pixels[ids], views, teacher.pixels)))
    images = torch.cat(parts)
    senses = choose_senses(open_vocabulary("imagenet-1k"), open_lexicon())
    print(
        f"\nImageNet-1K's classes: zero-shot top-1 of {teacher.name} "
        f"on {len(labels):,} images of {file.name}"
    )
    names = [name for name in built_in_prompt_sets() if name != "openai_80"]
    for name, anchors in build_anchors(teacher, senses, names, root, bars).items():
        print_accuracy(name, images, torch.from_numpy(anchors), labels)


def print_accuracy(
    name: str, images: torch.Tensor, anchors: torch.Tensor, labels: torch.Tensor
) -> None:
    """Print the accuracy of one prompt set with its 95 % interval."""
    top1 = accuracy(zero_shot_logits(images, anchors), labels)
    low, high = wilson_interval(top1, len(labels))
    print(f"{name:10} {top1:5.1f} ({low:.1f}–{high:.1f})")


def main() -> None:
    """Run the parts whose options are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lvis", type=Path)
    parser.add_argument("--teacher")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=SIDE:DIR")
    parser.add_argument("--imagenet", type=Path, metavar="FILE")
    parser.add_argument("--storage", type=Path, help="folder of stores (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ProgressBars() as bars:
        root = options.storage or Path(scratch)
        teacher = None
        if options.teacher:
            config = TowerConfig(model=f"local-dir:{options.teacher}")
            teacher = load_teacher(config, torch.device("cpu"))
        collisions(options.lvis, teacher, root, bars)
        for pair in options.data if teacher else ():
            title, _, location = pair.partition("=")
            side, _, folder = location.partition(":")
            zero_shot(title, int(side), folder, teacher, root, bars)
        if options.imagenet and teacher:
            imagenet(options.imagenet, teacher, root, bars)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"ambiguity.py: {error}") from None
