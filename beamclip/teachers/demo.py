"""The demo's teacher: a small CLIP in open_clip's format, trained on the spot on scenes of handwriting that nothing else uses."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.data import DIGIT_NAMES, TeacherScenes, teacher_scenes
from beamclip.stores import Progress, silent, write_json

# Captions of the demo's scenes, true or false of each.


Template = Callable[[str], str]


@dataclass(frozen=True)
class Captions:
    """Every template with every digit, without and with each colour.

    tokens: [T, K, 1 + C, L], ids into `vocabulary`; the first caption of the C + 1 names no colour.
    vocabulary: the tokenizer's ids that occur, sorted, [V].
    """

    tokens: Tensor
    vocabulary: Tensor

    @classmethod
    def of(
        cls,
        templates: Sequence[Template],
        digits: Sequence[str],
        colours: Sequence[str],
        tokenizer: Any,
    ) -> "Captions":
        """Tokenise "a photo of a three.", "a photo of a red three." and so on."""
        named = [f"{colour} {digit}".strip() for digit in digits for colour in ("", *colours)]
        tokens: Tensor = tokenizer([template(name) for template in templates for name in named])
        vocabulary, compact = torch.unique(tokens, return_inverse=True)
        return cls(compact.view(len(templates), len(digits), 1 + len(colours), -1), vocabulary)

    def draw(
        self, each: int, coloured: float, random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`each` captions for each of K digits; `coloured` is the chance that one names a colour.

        Returns:
            tokens [K * each, L], digits [K * each], colours [K * each], -1 where a caption names none.
        """
        templates, kinds, choices, _ = self.tokens.shape
        digits = torch.arange(kinds).repeat_interleave(each)
        template = torch.randint(templates, digits.shape, generator=random)
        colour = torch.randint(1, choices, digits.shape, generator=random)
        colour[torch.rand(digits.shape, generator=random) >= coloured] = 0
        return self.tokens[template, digits, colour], digits, colour - 1


@contextmanager
def small_vocabulary(model: Any, vocabulary: Tensor) -> Iterator[None]:
    """Inside, the text tower knows only these tokens, by their place among them.

    A step over the embeddings of all 49 408 tokens would cost more than the images do, and the others would only decay. The
    order is kept, which matters: open_clip reads the text at its largest id, the end of text.
    """
    whole = model.token_embedding
    model.token_embedding = nn.Embedding(
        len(vocabulary),
        whole.embedding_dim,
        _weight=whole.weight[vocabulary].detach().clone(),
    )
    try:
        yield
    finally:
        with torch.no_grad():
            whole.weight[vocabulary] = model.token_embedding.weight
        model.token_embedding = whole


# CLIP's loss where captions repeat.


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric loss where several captions are true of an image and several images show what a caption says.

    With CLIP's own one-to-one targets, every repeated digit would count as a mismatch. As in UniCL (Yang et al., CVPR 2022) the
    target is spread evenly over all that is true; rows without any truth in the batch are left out.

    Args:
        logits: scaled cosines, images x captions, [B, C].
        true: which captions are true of which images, bool [B, C].
    """
    return (_one_way(logits, true) + _one_way(logits.T, true.T)) / 2


def _one_way(logits: Tensor, true: Tensor) -> Tensor:
    some = true.any(dim=1)
    targets = true[some].float()
    targets = targets / targets.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits[some], targets)


DEMO_TEACHER_VERSION = 2
"""Goes up whenever the trained weights change."""
READING_STEPS, STEPS, BATCH, SCENES = 60, 800, 128, 51200
_PEAK_LR, _TEXT_LR, _WARMUP, _WEIGHT_DECAY = (
    3e-3,
    1e-3,
    0.05,
    0.05,
)  # at 3e-3 the text transformer collapses
_CAPTIONS_A_DIGIT, _COLOURED = (
    3,
    0.25,
)  # colours from half way on: they are easy, and learned first they hide the digits
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
_PREPROCESS = {
    "mean": [_MEAN] * 3,
    "std": [_STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_TEMPLATES = (
    "{}",
    "{}.",
    "the number {}.",
    "the digit {}.",
    "a handwritten {}.",
    "a drawing of the number {}.",
)


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


def _train(
    model: Any,
    scenes: TeacherScenes,
    captions: Captions,
    random: torch.Generator,
    progress: Progress,
) -> None:
    model.visual.to(memory_format=torch.channels_last).train()
    model.train()
    slow = list(model.transformer.parameters())
    fast = [
        parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("transformer.")
    ]
    optimiser = torch.optim.AdamW([{"params": fast}, {"params": slow}], weight_decay=_WEIGHT_DECAY)
    peaks = [_PEAK_LR, _TEXT_LR]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peaks, total_steps=STEPS, pct_start=_WARMUP
    )
    for step, (images, digits, colours) in enumerate(_batches(scenes, random), 1):
        tokens, said_digits, said_colours = captions.draw(
            _CAPTIONS_A_DIGIT, 0.0 if step <= STEPS / 2 else _COLOURED, random
        )
        right_colour = (said_colours == -1) | (colours[:, None] == said_colours)
        image, text, scale = model(images, tokens)
        optimiser.zero_grad()
        contrastive_loss(
            scale * image @ text.T, right_colour & (digits[:, None] == said_digits)
        ).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == STEPS:
            progress("training the demo teacher", step, STEPS)


def _batches(
    scenes: TeacherScenes, random: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`STEPS` batches: images [B, 3, 32, 32] as the preprocessing makes them, digits [B], colours [B]."""
    digits, colours = torch.from_numpy(scenes.labels), torch.from_numpy(scenes.colours)
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
    order = torch.cat(
        [
            torch.randperm(len(digits), generator=random)
            for _ in range(-(-STEPS * BATCH // len(digits)))
        ]
    )
    for start in range(0, STEPS * BATCH, BATCH):
        rows = order[start : start + BATCH]
        yield (images[rows].float() / 255 - _MEAN) / _STD, digits[rows], colours[rows]


def _save(model: Any, folder: Path) -> None:
    """Readable by all: safetensors writes files for their owner alone."""
    from safetensors.torch import save_file

    weights = folder / "open_clip_model.safetensors"
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, weights
    )
    weights.chmod(0o644)
    write_json(
        folder / "open_clip_config.json", {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS}
    )
