"""How often do ambiguous names collide, and what does each prompt set do about it?

    python tests/benchmarks/ambiguity.py [--lvis DIR] [--teacher DIR] [--data NAME=SIDE:DIR …] [--imagenet FILE] [--storage DIR]

Three parts, each where what it needs is given:

1. `--lvis`: a folder with `embeddings.npy`, real CLIP text embeddings of the LVIS names, [1203, D], and `categories.json`. Do ambiguous
   names (several noun senses in WordNet) lie nearer to some other name than the others do, and among names of another kind?
2. `--teacher` (an open_clip folder): the same of its own text embeddings of LVIS under each prompt set; and the pairs of ImageNet-1K
   classes that share their first WordNet name (crane the bird and crane the machine) or the name that CLIP's authors gave them (two are
   called missile), which under that name alone are one anchor.
3. `--data`: zero-shot top-1 of that teacher on the test split of each data set (parquet or folders, stored at SIDE px), under each
   prompt set; with `--imagenet FILE`, a parquet file whose labels are ImageNet-1K's, also over its thousand classes.

A neighbour's likeness in kind is Lin's: 2 I(a) / (I(s) + I(t)), with a the rarest kind that both are, and I its information in WordNet.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
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

_NEIGHBOURS = 5
Floats = NDArray[np.float32]


def unit(rows: Floats) -> Floats:
    """Rows at unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kinship(lexicon: Lexicon, one: str, other: str) -> float:
    """Lin's likeness of two synsets, 0 to 1."""
    shared = max(
        map(lexicon.information_content, lexicon.ancestors(one) & lexicon.ancestors(other)),
        default=0.0,
    )
    return (
        2
        * shared
        / max(1e-9, lexicon.information_content(one) + lexicon.information_content(other))
    )


def neighbourhood(
    anchors: Floats, senses: Sequence[Sense], lexicon: Lexicon
) -> dict[str, list[float]]:
    """Of ambiguous and of other names: cosine to the nearest other, and how alike in kind the nearest five are, on average."""
    cosines = anchors @ anchors.T
    np.fill_diagonal(cosines, -1)
    groups: dict[str, list[float]] = defaultdict(list)
    for row, sense in enumerate(senses):
        if sense.synset is None:
            continue
        group = "ambiguous" if len(sense.considered) > 1 else "one sense"
        near = [senses[i].synset for i in np.argsort(-cosines[row])[:_NEIGHBOURS]]
        kin = [kinship(lexicon, sense.synset.id, one.id) for one in near if one is not None]
        groups[f"{group}: nearest"].append(float(cosines[row].max()))
        groups[f"{group}: kinship"].append(float(np.mean(kin)) if kin else 0.0)
    return groups


def print_neighbourhood(
    title: str, anchors: Floats, senses: Sequence[Sense], lexicon: Lexicon
) -> None:
    """A line for a set of anchors."""
    groups = neighbourhood(anchors, senses, lexicon)
    cells = []
    for group in ("ambiguous", "one sense"):
        nearest, kin = np.array(groups[f"{group}: nearest"]), np.array(groups[f"{group}: kinship"])
        cells.append(
            f"{len(nearest):4} {100 * (nearest >= 0.95).mean():5.1f} % {100 * (nearest >= 0.9).mean():5.1f} % {kin.mean():6.3f}"
        )
    print(f"{title:14} | {cells[0]} | {cells[1]}")


def homographs(lexicon: Lexicon) -> list[tuple[Sense, Sense]]:
    """Pairs of ImageNet-1K classes with the same first lemma, or the same name in CLIP's list, each under that name."""
    classes = open_vocabulary("imagenet-1k")
    lemmas = [ClassName(lexicon.synset(str(one.synset)).lemmas[0], one.synset) for one in classes]
    return _same_name(choose_senses(lemmas, lexicon)) + _same_name(choose_senses(classes, lexicon))


def _same_name(senses: Sequence[Sense]) -> list[tuple[Sense, Sense]]:
    by_name: dict[str, list[Sense]] = defaultdict(list)
    for sense in senses:
        by_name[sense.name.lower()].append(sense)
    return [
        (a, b) for group in by_name.values() for i, a in enumerate(group) for b in group[i + 1 :]
    ]


def anchors_of(
    teacher: Teacher, senses: Sequence[Sense], names: Sequence[str], root: Path, bars: ProgressBars
) -> dict[str, Floats]:
    """Anchors of these classes under each prompt set, made together."""
    plans = [AnchorSetPlan.of(senses, name, members_of(name, {})) for name in names]
    stores = build_anchor_sets(teacher, plans, root, bars)
    bars.close()
    return {
        n: AnchorSet.open(store).embeddings.numpy() for n, store in zip(names, stores, strict=True)
    }


def lvis_senses(lexicon: Lexicon) -> tuple[Sense, ...]:
    """LVIS's categories with the senses that LVIS itself gives."""
    return choose_senses(open_vocabulary("lvis"), lexicon)


def collisions(lvis: Path | None, teacher: Teacher | None, root: Path, bars: ProgressBars) -> None:
    """Parts 1 and 2."""
    lexicon = open_lexicon()
    senses, names = lvis_senses(lexicon), list(built_in_prompt_sets())
    if lvis or teacher:
        columns = f"{'names':>4} {'≥.95':>6} {'≥.90':>8} {'kin':>6}"
        print(
            f"LVIS, {len(senses)} names: nearest other name by cosine, and likeness in kind of the nearest {_NEIGHBOURS}"
        )
        print(f"{'':14} | several senses: {columns} | one sense: {columns}")
    if lvis:
        rows = unit(np.load(lvis / "embeddings.npy").astype(np.float32))
        assert len(rows) == len(json.loads((lvis / "categories.json").read_text())) == len(senses)
        print_neighbourhood("CLIP ViT-B/32", rows, senses, lexicon)
    if teacher is None:
        return
    for name, anchors in anchors_of(teacher, senses, names, root, bars).items():
        print_neighbourhood(name, anchors, senses, lexicon)
    pairs = homographs(lexicon)
    flat = [sense for pair in pairs for sense in pair]
    print(
        f"\nImageNet-1K, {len(pairs)} pairs of classes with the same first name: {', '.join(sorted({a.name for a, _ in pairs}))}"
    )
    for name, anchors in anchors_of(teacher, flat, names, root, bars).items():
        cosines = (anchors[::2] * anchors[1::2]).sum(1)
        same = (cosines > 1 - 1e-5).sum()
        print(
            f"{name:10} cosine of the two: mean {cosines.mean():.3f}, largest {cosines.max():.3f}, one and the same: {same}"
        )


def zero_shot(
    what: str, side: int, folder: str, teacher: Teacher, root: Path, bars: ProgressBars
) -> None:
    """Part 3, for one data set."""
    config = DataConfig(path=folder, image_size=side)
    packed, source = pack(config, root, bars), open_source(config)
    stored, _ = embed(teacher, packed, ViewSet.center(packed.test_ids), root, bars)
    images, labels = (
        torch.from_numpy(stored.gather(packed.test_ids, 0)),
        torch.from_numpy(packed.labels[packed.test_ids]),
    )
    senses = choose_senses(dataset_classes(source.names, source.keys, None), open_lexicon())
    bars.close()
    print(f"\n{what}: zero-shot top-1 of {teacher.name} on {len(labels):,} test images")
    for name, anchors in anchors_of(
        teacher, senses, list(built_in_prompt_sets()), root, bars
    ).items():
        print_accuracy(name, images, torch.from_numpy(anchors), labels)


def imagenet(file: Path, teacher: Teacher, root: Path, bars: ProgressBars) -> None:
    """Part 3 over ImageNet-1K's classes. Without `openai_80`: 80,000 sentences would take longer than all the rest."""
    rows = list(rows_of(Files(str(file.parent)), file.name, ""))
    pixels = torch.from_numpy(np.stack([load_square_rgb(image["bytes"], 160) for image, _ in rows]))
    labels, center = torch.tensor([label for _, label in rows]), RECIPES["center"]
    parts = []
    for start in range(0, len(pixels), 64):
        ids = np.arange(start, min(start + 64, len(pixels)))
        parts.append(
            teacher.encode_images(
                render(pixels[ids], draw(center, ids, np.zeros_like(ids), 0), teacher.pixels)
            )
        )
    images, senses = torch.cat(parts), choose_senses(open_vocabulary("imagenet-1k"), open_lexicon())
    print(
        f"\nImageNet-1K's classes: zero-shot top-1 of {teacher.name} on {len(labels):,} images of {file.name}"
    )
    names = [name for name in built_in_prompt_sets() if name != "openai_80"]
    for name, anchors in anchors_of(teacher, senses, names, root, bars).items():
        print_accuracy(name, images, torch.from_numpy(anchors), labels)


def print_accuracy(
    name: str, images: torch.Tensor, anchors: torch.Tensor, labels: torch.Tensor
) -> None:
    """A line for a prompt set."""
    right = accuracy(zero_shot_logits(images, anchors), labels)
    low, high = wilson_interval(right, len(labels))
    print(f"{name:10} {right:5.1f} ({low:.1f}–{high:.1f})")


def main() -> None:
    """Run what can be run."""
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
        teacher = (
            load_teacher(TowerConfig(model=f"local-dir:{options.teacher}"), torch.device("cpu"))
            if options.teacher
            else None
        )
        collisions(options.lvis, teacher, root, bars)
        for pair in options.data if teacher else ():
            what, _, place = pair.partition("=")
            side, _, folder = place.partition(":")
            zero_shot(what, int(side), folder, teacher, root, bars)
        if options.imagenet and teacher:
            imagenet(options.imagenet, teacher, root, bars)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"ambiguity.py: {error}") from None
