import io

import torch
from rich.console import Console

from beamclip.cli.evaluate import notes, probe_table
from beamclip.config import ProbeConfig
from beamclip.evaluation import LabelledFeatures, evaluate


def part(count, classes, seed, embeddings=False):
    """Features that tell the classes apart, with noise."""
    labels = torch.arange(count) % classes
    features = (
        torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
        + 2 * torch.eye(16)[labels]
    )
    return LabelledFeatures(features, features if embeddings else None, labels)


def evaluated(classes, few_shot=(), anchors=None):
    parts = (
        part(count, classes, seed, anchors is not None) for seed, count in enumerate((120, 60, 90))
    )
    return evaluate(*parts, anchors, ProbeConfig(few_shot=few_shot, knn_k=(5, 20), bootstrap=50))


def lines(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]


def test_each_way_of_judging_has_a_row_with_its_numbers():
    own = evaluated(10, anchors=torch.eye(16)[:10])
    m = own.metrics
    about, probe, neighbours, zero_shot = lines(probe_table("model", {"own": own}))
    between = f"{m['linear_probe/test_top1_low']:.2f}–{m['linear_probe/test_top1_high']:.2f}"
    numbers = [
        f"{m[f'linear_probe/{key}']:.2f}"
        for key in ("val_top1", "test_top1", "test_top5", "test_ece")
    ]
    assert about == ["own, 90 test images", "", "", "", "", ""]
    assert probe == ["linear probe", *numbers[:2], between, *numbers[2:]]
    assert neighbours == [
        f"k-NN, k = {m['knn/k']:.0f}",
        f"{m['knn/val_top1']:.2f}",
        f"{m['knn/test_top1']:.2f}",
        "",
        "",
        "",
    ]
    assert zero_shot[0] == "zero-shot" and zero_shot[2] == f"{m['zero_shot/test_top1']:.2f}"


def test_few_images_a_class_stand_below_and_what_could_not_be_done_is_a_note():
    own = evaluated(3, few_shot=(1, 2, 500))
    rows = lines(probe_table("model", {"own": own}))
    assert [row[0] for row in rows[1:]] == [
        "linear probe",
        rows[2][0],
        "1-shot probe",
        "2-shot probe",
    ]
    assert rows[3][2] == f"{own.metrics['few_shot/1_top1']:.2f}" and rows[3][3]
    assert rows[1][4] == ""  # of 3 classes, the right one is always among 5
    assert "N-shot probes over draws" in probe_table("model", {"own": own}).caption
    assert probe_table("model", {"own": evaluated(3)}).caption is None
    said = "500 images a class: left out, a class has only 40 train images"
    assert notes({"own": own, "pets": evaluated(3, few_shot=(2, 500))}) == [
        f"own, {said}",
        f"pets, {said}",
    ]


def test_other_data_comes_under_its_name():
    own, other = evaluated(10), evaluated(3)
    rows = lines(probe_table("model", {"own": own, "pets": other}))
    assert [row[0] for row in rows if not row[1]] == ["own, 90 test images", "pets, 90 test images"]
    assert rows[4][2] == f"{other.metrics['linear_probe/test_top1']:.2f}"


def test_brackets_in_a_name_are_no_markup():
    table = probe_table("/data/[/old]/student.safetensors", {"[red]own[/red]": evaluated(3)})
    assert "[red]own[/red], 90 test images" in str(lines(table))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    assert "/data/[/old]/student.safetensors" in console.export_text()
