"""The demo's teacher: a small CLIP in open_clip's format, trained on the spot on scenes of handwriting that nothing else uses."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beamclip.data import DIGIT_NAMES, TeacherScenes, teacher_scenes
from beamclip.stores import Progress, silent, write_json
from beamclip.teachers.captions import Captions, Template, small_vocabulary
from beamclip.teachers.contrastive import contrastive_loss

DEMO_TEACHER_VERSION = 2
"""Goes up whenever the trained weights change."""
READING_STEPS, STEPS, BATCH, SCENES = 60, 800, 128, 51200
_PEAK_LR, _TEXT_LR, _WARMUP, _WEIGHT_DECAY = 3e-3, 1e-3, 0.05, 0.05  # at 3e-3 the text transformer collapses
_CAPTIONS_A_DIGIT, _COLOURED = 3, 0.25  # colours from half way on: they are easy, and learned first they hide the digits
_MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
_MEAN, _STD = 0.5, 0.25
_PREPROCESS = {"mean": [_MEAN] * 3, "std": [_STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
_TEMPLATES = ("{}", "{}.", "the number {}.", "the digit {}.", "a handwritten {}.", "a drawing of the number {}.")


def train_demo_teacher(folder: Path, progress: Progress = silent, seed: int = 0) -> None:
    """Train it and write `open_clip_config.json` and `open_clip_model.safetensors`, which open_clip loads as `local-dir:FOLDER`.

    Takes about a minute of one core.

    Args:
        folder: exists; these files in it are replaced.
        seed: of weights, scenes and captions. The global random state is left as it was.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = _new_model()
        scenes = teacher_scenes(SCENES, seed)
        tokenizer = open_clip.SimpleTokenizer(context_length=_MODEL["text_cfg"]["context_length"])
        captions = Captions.of(_all_templates(), DIGIT_NAMES, scenes.colour_names, tokenizer)
        with small_vocabulary(model, captions.vocabulary):
            _read_first(model, captions, torch.Generator().manual_seed(seed))
            _train(model, scenes, captions, torch.Generator().manual_seed(seed), progress)
    _save(model, folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread gives the same weights on any number of cores, and does not crawl, as two do that wait for each other in
    turns of microseconds, when the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _new_model() -> Any:
    """Random weights. CLIP's own start is made for long training: here words begin far apart and cosines count for less."""
    import open_clip

    model = open_clip.CLIP(**_MODEL)
    torch.nn.init.normal_(model.token_embedding.weight)
    torch.nn.init.constant_(model.logit_scale, math.log(8))
    return model


def _all_templates() -> list[Template]:
    """Our own and CLIP's 80: a teacher that has never read a prompt's words can't be asked with them."""
    import open_clip

    return [template.format for template in _TEMPLATES] + list(open_clip.OPENAI_IMAGENET_TEMPLATES)


def _read_first(model: Any, captions: Captions, random: torch.Generator) -> None:
    """Let the text tower tell digits apart before it sees any image: two captions belong together if they name the same one.

    All its captions look alike at first, and towers that start together spend their first hundred steps on that.
    """
    optimiser = torch.optim.AdamW(model.parameters(), _TEXT_LR)
    for _ in range(READING_STEPS):
        (first, said, _), (second, again, _) = (captions.draw(4, 0.0, random) for _ in range(2))
        first, second = (model.encode_text(tokens, normalize=True) for tokens in (first, second))
        optimiser.zero_grad()
        contrastive_loss(8 * first @ second.T, said[:, None] == again).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _train(model: Any, scenes: TeacherScenes, captions: Captions, random: torch.Generator, progress: Progress) -> None:
    model.visual.to(memory_format=torch.channels_last).train()
    model.train()
    slow = list(model.transformer.parameters())
    fast = [parameter for name, parameter in model.named_parameters() if not name.startswith("transformer.")]
    optimiser = torch.optim.AdamW([{"params": fast}, {"params": slow}], weight_decay=_WEIGHT_DECAY)
    peaks = [_PEAK_LR, _TEXT_LR]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=STEPS, pct_start=_WARMUP)
    for step, (images, digits, colours) in enumerate(_batches(scenes, random), 1):
        tokens, said_digits, said_colours = captions.draw(_CAPTIONS_A_DIGIT, 0.0 if step <= STEPS / 2 else _COLOURED, random)
        right_colour = (said_colours == -1) | (colours[:, None] == said_colours)
        image, text, scale = model(images, tokens)
        optimiser.zero_grad()
        contrastive_loss(scale * image @ text.T, right_colour & (digits[:, None] == said_digits)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == STEPS:
            progress("training the demo teacher", step, STEPS)


def _batches(scenes: TeacherScenes, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`STEPS` batches: images [B, 3, 32, 32] as the preprocessing makes them, digits [B], colours [B]."""
    digits, colours = torch.from_numpy(scenes.labels), torch.from_numpy(scenes.colours)
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
    order = torch.cat([torch.randperm(len(digits), generator=random) for _ in range(-(-STEPS * BATCH // len(digits)))])
    for start in range(0, STEPS * BATCH, BATCH):
        rows = order[start : start + BATCH]
        yield (images[rows].float() / 255 - _MEAN) / _STD, digits[rows], colours[rows]


def _save(model: Any, folder: Path) -> None:
    """Readable by all: safetensors writes files for their owner alone."""
    from safetensors.torch import save_file

    weights = folder / "open_clip_model.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, weights)
    weights.chmod(0o644)
    write_json(folder / "open_clip_config.json", {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS})
