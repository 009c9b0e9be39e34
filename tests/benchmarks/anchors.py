"""Measure the time to make text anchors for ImageNet-1K under the prompt set `cpa`.

    python tests/benchmarks/anchors.py [--teacher DIR] [--prompt-set cpa] [--kill-after 20]

DIR is an open_clip folder. Without it, a ViT-B/32 CLIP with random weights is used, which is as
fast as a trained one.

The pass starts in a process that is killed (kill -9) once `--kill-after` shards of 128 prompts are
finished. A second process continues it. The script prints the time of that second process and the
time of one more call in it, when the teacher is already loaded.
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
    """Save a CLIP with random weights as an open_clip folder and return the folder."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = open_clip.get_model_config(name)
    model = open_clip.CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": _PIXELS})
    )
    return folder


def build_twice(
    folder: Path, prompt_set: str, root: Path
) -> tuple[float, float, AnchorSet, AnchorSetPlan]:
    """Build the anchors twice, from class names to embeddings.

    Returns:
        Seconds of the first call, seconds of the second call, the anchors and their plan.
    """
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

    first, anchors, plan = call()
    second, _, _ = call()
    return first, second, anchors, plan


def count_finished_shards(root: Path) -> int:
    """Return the number of finished shards of an unfinished pass."""
    return len(list(root.glob("texts/.*.partial/shards/*.json")))


def run_and_kill(command: list[str], root: Path, after: int) -> int:
    """Run the command, kill it after that many shards, and return how many shards are kept."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while count_finished_shards(root) < after and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    return count_finished_shards(root)


def main() -> None:
    """Measure the time and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--prompt-set", default="cpa")
    parser.add_argument("--kill-after", type=int, default=20)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Only the process that is going to be killed gets --storage.
    if options.storage:
        build_twice(options.teacher, options.prompt_set, options.storage)
        return
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = options.teacher or random_clip("ViT-B-32", scratch / "clip")
        command = [
            sys.executable,
            __file__,
            "--teacher",
            str(folder),
            "--prompt-set",
            options.prompt_set,
            "--storage",
            str(scratch / "stores"),
        ]
        kept = run_and_kill(command, scratch / "stores", options.kill_after)
        first, second, anchors, plan = build_twice(folder, options.prompt_set, scratch / "stores")
        rate = (len(plan.texts) - 128 * kept) / first
        print(
            f"{len(anchors.names):,} classes, {len(plan.texts):,} different prompts, "
            f"{torch.get_num_threads()} threads: {kept} shards of 128 were kept,"
        )
        print(f"the rest took {first:.1f} s ({rate:.0f} prompts/s), a second call {second:.2f} s")


if __name__ == "__main__":
    main()
