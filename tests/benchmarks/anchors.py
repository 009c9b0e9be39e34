"""What anchors cost: ImageNet-1K in the words of `cpa`, through a text tower.

    python tests/benchmarks/anchors.py [--teacher DIR] [--prompt-set cpa] [--kill-after 20]

DIR is an open_clip folder; without it, a ViT-B/32 CLIP of random weights (speed does not care what it knows). The pass is begun in a
process that is killed (kill -9) once `--kill-after` shards of 128 prompts are done; a second process goes on, and its time is printed
with the time of a further call, in the same process, with the teacher loaded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from beamclip.anchors import AnchorSet, AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.wordnet import open_lexicon, open_vocabulary
from beamclip.config import TowerConfig
from beamclip.config.anchors import members_of
from beamclip.sweep.progress import ProgressBars
from beamclip.teachers import load_teacher

_PIXELS = {
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "size": [224, 224],
}


def random_clip(name: str, folder: Path) -> Path:
    """A CLIP of random weights, as an open_clip folder."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = open_clip.get_model_config(name)
    model = open_clip.CLIP(
        **{
            key: value
            for key, value in config.items()
            if key in ("embed_dim", "vision_cfg", "text_cfg")
        }
    )
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": _PIXELS})
    )
    return folder


def make(
    folder: Path, prompt_set: str, root: Path
) -> tuple[float, float, AnchorSet, AnchorSetPlan]:
    """Seconds of the first call, from class names to anchors, and of a second one."""
    teacher = load_teacher(TowerConfig(model=f"local-dir:{folder}"), torch.device("cpu"))

    def call() -> tuple[float, AnchorSet, AnchorSetPlan]:
        start = time.perf_counter()
        plan = AnchorSetPlan.of(
            choose_senses(open_vocabulary("imagenet-1k"), open_lexicon()),
            prompt_set,
            members_of(prompt_set, {}),
        )
        with ProgressBars() as bars:
            (store,) = build_anchor_sets(teacher, [plan], root, bars)
        return time.perf_counter() - start, AnchorSet.open(store), plan

    first, bank, plan = call()
    return first, call()[0], bank, plan


def shards(root: Path) -> int:
    """Shards that are finished in a pass that is not."""
    return len(list(root.glob("texts/.*.partial/shards/*.json")))


def killed(words: list[str], root: Path, after: int) -> int:
    """Begin, kill after so many shards, and say how many are kept."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while shards(root) < after and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    return shards(root)


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--prompt-set", default="cpa")
    parser.add_argument("--kill-after", type=int, default=20)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.storage:  # the process to be killed
        make(options.teacher, options.prompt_set, options.storage)
        return
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = options.teacher or random_clip("ViT-B-32", scratch / "clip")
        words = [
            sys.executable,
            __file__,
            "--teacher",
            str(folder),
            "--prompt-set",
            options.prompt_set,
            "--storage",
            str(scratch / "stores"),
        ]
        kept = killed(words, scratch / "stores", options.kill_after)
        first, second, bank, plan = make(folder, options.prompt_set, scratch / "stores")
        work = f"{len(bank.names):,} classes, {len(plan.texts):,} different prompts, {torch.get_num_threads()} threads"
        print(f"{work}: {kept} shards of 128 were kept,")
        print(
            f"the rest took {first:.1f} s ({(len(plan.texts) - 128 * kept) / first:.0f} prompts/s), a second call {second:.2f} s"
        )


if __name__ == "__main__":
    main()
