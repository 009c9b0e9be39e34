import pytest
import torch
from helpers.distilling import check_two_workers, embeddings, share

from beamclip.config import ObjectiveConfig, UserError
from beamclip.objectives import LossContext, build_objective
from beamclip.objectives.base import WeightedSum


def material():
    return LossContext(8, 16, 100, 7, [embeddings(7, seed=9)[0]])


def build(name="csm+simreg+seed", **terms):
    return build_objective(ObjectiveConfig(name=name, terms=terms), material())


def test_the_loss_is_the_weighted_sum_of_the_terms():
    seen = share(0, 1, 0)
    together = build(simreg=0.25, seed=3)(seen)
    alone = {name: build(name)(seen) for name in ("csm", "simreg", "seed")}
    expected = alone["csm"]["loss"] + 0.25 * alone["simreg"]["loss"] + 3 * alone["seed"]["loss"]
    torch.testing.assert_close(together["loss"], expected)
    parts = {
        f"{name}_{term}": value for name, terms in alone.items() for term, value in terms.items()
    }
    assert parts.keys() == {"csm_loss", "csm_top1_agreement", "simreg_loss", "seed_loss"}
    assert {"loss": together["loss"], **parts} == together


def test_the_gradient_is_the_weighted_sum_too():
    seen = share(0, 1, 0)
    seen.embeddings.requires_grad_()
    (both,) = torch.autograd.grad(build("csm+simreg", simreg=0.25)(seen)["loss"], seen.embeddings)
    csm, simreg = (
        torch.autograd.grad(build(name)(seen)["loss"], seen.embeddings)[0]
        for name in ("csm", "simreg")
    )
    torch.testing.assert_close(both, csm + 0.25 * simreg)


def test_one_name_gives_no_sum():
    assert not isinstance(build("simreg"), WeightedSum)


def test_queues_of_the_terms_are_in_the_state():
    objective = build("seed+compress")
    objective(share(0, 1, 0))
    state = objective.state_dict()
    assert state.keys() == {"objectives.seed.queue.rows", "objectives.compress.queue.rows"}
    again = build("seed+compress")
    again.load_state_dict(state)
    torch.testing.assert_close(again(share(0, 1, 1)), objective(share(0, 1, 1)))


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    check_two_workers(build)


def test_a_bad_setting_of_a_term_is_a_user_error():
    with pytest.raises(
        UserError, match=r"objective\.seed\.queue is 101, but there are 100 training images"
    ):
        build_objective(
            ObjectiveConfig.model_validate({"name": "csm+seed", "seed": {"queue": 101}}), material()
        )
