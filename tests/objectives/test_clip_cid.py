import math

import pytest
import torch
import torch.nn.functional as F
from helpers.distilling import (
    check_gradient,
    check_two_workers,
    cosine,
    distribution,
    embeddings,
    share,
    slow_kl,
)
from sklearn.metrics import log_loss

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.clip_cid import ClipCidSettings, ClusterInstanceDiscrimination

TERMS = {"cluster": "label_weight", "cluster_kl": "kl_weight", "instance": "instance_weight"}


def centers(count=5, width=16):
    return embeddings(count, width, seed=20)[0]


def anchors(count=7, width=16):
    return embeddings(count, width, seed=21)[0]


def build(width=16, clusters=5, only=None, **values):
    """With one term alone, or all of them."""
    weights = {weight: float(only in (None, term)) for term, weight in TERMS.items()}
    config = ClipCidSettings(
        **(weights | {"clusters": clusters, "scale": 8.0, "temperature": 0.2} | values)
    )
    return ClusterInstanceDiscrimination(config, centers(clusters, width), anchors(width=width))


def test_the_cluster_loss_equals_the_equation_written_out():
    seen, total = share(0, 1, 0), 0.0
    for s, own in zip(seen.embeddings.tolist(), seen.clusters.tolist(), strict=True):
        logits = [8 * (cosine(s, z) - 0.3 * (k == own)) for k, z in enumerate(centers().tolist())]
        total -= math.log(distribution(logits)[own])
    torch.testing.assert_close(build(margin=0.3)(seen)["cluster"], torch.tensor(total / 8))


def test_without_margin_the_cluster_loss_is_scikit_learn_s_log_loss():
    seen = share(0, 1, 0)
    p = (8 * F.cosine_similarity(seen.embeddings[:, None], centers(), dim=-1)).softmax(-1)
    expected = log_loss(
        seen.clusters.tolist(),
        p.double().numpy() / p.double().sum(-1, keepdim=True).numpy(),
        labels=range(5),
    )
    assert build()(seen)["cluster"].item() == pytest.approx(expected, rel=1e-5)


def test_the_kl_over_centers_equals_the_equation_written_out():
    seen = share(0, 1, 0)
    expected = slow_kl(
        seen.embeddings.tolist(), seen.teachers[0].tolist(), centers().tolist(), 0.2, 0.2
    )
    torch.testing.assert_close(build(margin=0.3)(seen)["cluster_kl"], torch.tensor(expected))


def test_the_instance_loss_equals_the_equation_written_out():
    seen = share(0, 1, 0)
    student, teacher = seen.embeddings.tolist(), seen.teachers[0].tolist()
    texts = [max(anchors().tolist(), key=lambda anchor, t=t: cosine(t, anchor)) for t in teacher]
    to_text = slow_kl(student, teacher, texts, 0.2, 0.2)
    to_image = 0.0
    for text in texts:
        p, q = (
            distribution([cosine(x, text) / 0.2 for x in images]) for images in (teacher, student)
        )
        to_image += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 8
    torch.testing.assert_close(build()(seen)["instance"], torch.tensor((to_text + to_image) / 2))


def test_the_loss_is_the_weighted_sum_and_terms_of_weight_zero_are_left_out():
    seen = share(0, 1, 0)
    out = build(label_weight=2.0, kl_weight=0.5, instance_weight=3.0)(seen)
    assert out.keys() == {"loss", *TERMS}
    torch.testing.assert_close(
        out["loss"], 2 * out["cluster"] + 0.5 * out["cluster_kl"] + 3 * out["instance"]
    )
    for term in TERMS:
        alone = build(only=term)(seen)
        assert alone.keys() == {"loss", term}
        assert torch.equal(alone["loss"], out[term])


def test_a_perfect_student_has_no_divergence_and_at_its_center_no_label_loss():
    seen = share(0, 1, 0)
    seen.embeddings = 3 * seen.teachers[0]
    out = build()(seen)
    assert out["cluster_kl"].abs() < 1e-6
    assert out["instance"].abs() < 1e-6
    seen.embeddings = centers()[seen.clusters]
    assert build(scale=1000.0)(seen)["cluster"] < 1e-6


def test_the_cluster_loss_of_a_uniform_guess_is_the_logarithm_of_the_number_of_clusters():
    seen = share(0, 1, 0)
    config = ClipCidSettings(clusters=5, scale=8.0)
    same = ClusterInstanceDiscrimination(config, centers()[:1].repeat(5, 1), anchors())
    assert same(seen)["cluster"].item() == pytest.approx(math.log(5), rel=1e-6)


def test_several_views_of_an_image_have_its_cluster():
    once, twice = share(0, 1, 0), share(0, 1, 0)
    twice.embeddings, twice.teachers = (
        once.embeddings.repeat(2, 1),
        (once.teachers[0].repeat(2, 1), torch.ones(16, 3)),
    )
    for term in ("cluster", "cluster_kl"):
        torch.testing.assert_close(build()(twice)[term], build()(once)[term])


@pytest.mark.parametrize("only", TERMS)
def test_the_gradient_is_the_derivative(only):
    student, teacher = embeddings(3, 4, dtype=torch.float64)
    seen = LossInputs(3, student, student, teachers=(teacher,), clusters=torch.tensor([4, 0, 4]))
    check_gradient(build(4, only=only, margin=0.2), seen)


def test_half_precision_embeddings_are_compared_in_full_precision():
    seen = share(0, 1, 0, images=64)
    full = build()(seen)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(build()(seen)["loss"], full["loss"])
    seen.embeddings, seen.teachers = seen.embeddings.bfloat16(), (seen.teachers[0].bfloat16(),)
    half = build()(seen)
    assert half["loss"].dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=1e-3)


def test_drawn_centers_are_those_of_the_batch_and_others_that_change_with_the_step():
    objective = build(clusters=50, negatives=10)
    clusters = torch.tensor([3, 49, 3, 7])
    columns, own = objective._columns(clusters, 0.0)
    assert len(columns) == len(columns.unique()) == 14
    assert torch.equal(columns[own], clusters)
    assert torch.equal(objective._columns(clusters, 0.0)[0], columns)
    assert not torch.equal(
        objective._columns(clusters, 0.01)[0].sort().values, columns.sort().values
    )


def test_all_centers_are_drawn_equally_often():
    objective, counts = build(clusters=20, negatives=4), torch.zeros(20)
    for step in range(2000):
        counts[objective._columns(torch.tensor([0]), step / 100)[0]] += 1
    assert counts[0] == 2000
    expected = 2000 * 4 / 19
    assert (counts[1:] - expected).abs().max() < 5 * math.sqrt(expected)  # five standard deviations


def test_the_loss_is_computed_over_the_drawn_centers_only():
    seen, objective = share(0, 1, 0), build(clusters=50, negatives=10, margin=0.3)
    columns, own = objective._columns(seen.clusters, seen.epoch)
    fewer = ClusterInstanceDiscrimination(
        objective.settings.model_copy(update={"negatives": None}), centers(50)[columns], anchors()
    )
    out = objective(seen)
    seen.clusters = own
    torch.testing.assert_close(fewer(seen), out)


def test_a_number_of_centers_above_the_maximum_uses_all_of_them():
    seen = share(0, 1, 0)
    torch.testing.assert_close(build(negatives=4)(seen), build()(seen))


def few_centers():
    return build(clusters=30, negatives=6, margin=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [build, few_centers])
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch(make):
    check_two_workers(make)


def test_teacher_centers_and_anchors_get_no_gradient_and_nothing_is_saved():
    seen, objective = share(0, 1, 0), build()
    seen.embeddings.requires_grad_()
    seen.teachers[0].requires_grad_()
    objective(seen)["loss"].backward()
    assert seen.embeddings.grad is not None and seen.teachers[0].grad is None
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}


def test_a_config_builds_it():
    config = ObjectiveConfig.model_validate(
        {"name": "clip_cid", "clip_cid": {"clusters": 5, "scale": 8.0, "temperature": 0.2}}
    )
    built = build_objective(
        config, LossContext(8, 16, 100, 7, [anchors(), torch.ones(7, 3)], centers=centers())
    )
    torch.testing.assert_close(built(share(0, 1, 0)), build()(share(0, 1, 0)))
