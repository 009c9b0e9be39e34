import stat

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from beamclip.config import DataConfig
from beamclip.data import DIGIT_NAMES, DemoSource
from beamclip.teachers import demo
from beamclip.teachers.demo import train_demo_teacher

PROMPT_SETS = {
    "plain": ["a photo of a {}.".format],
    "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
}


def load(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", require_pretrained=True
    )
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.slow
def test_a_short_training_can_be_loaded_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STEPS", 4)
    monkeypatch.setattr(demo, "SCENES", 512)
    state, steps = torch.random.get_rng_state(), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train_demo_teacher(tmp_path / name, lambda _, done, total: steps.append((done, total)))
    assert torch.equal(torch.random.get_rng_state(), state) and steps[-1] == (4, 4)
    assert stat.S_IMODE((tmp_path / "a/open_clip_model.safetensors").stat().st_mode) == 0o644
    first, second = (load(tmp_path / name)[0].state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_it_knows_the_digits_of_writers_it_has_never_seen(tmp_path):
    train_demo_teacher(tmp_path)
    model, preprocess, tokenizer = load(tmp_path)
    items = list(DemoSource(DataConfig(source="demo")).items("test"))
    labels = torch.tensor([item.label for item in items])
    with torch.no_grad():
        images = model.encode_image(
            torch.stack([preprocess(Image.fromarray(np.asarray(item.image))) for item in items])
        )
        for name, templates in PROMPT_SETS.items():
            texts = [[template(digit) for template in templates] for digit in DIGIT_NAMES]
            anchors = torch.stack(
                [model.encode_text(tokenizer(text), normalize=True).mean(0) for text in texts]
            )
            accuracy = (
                ((images @ F.normalize(anchors, dim=-1).T).argmax(1) == labels).float().mean()
            )
            assert accuracy > 0.84, name
