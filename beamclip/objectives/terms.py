"""A weighted sum of objectives: L = Σ_m w_m L_m."""

from collections.abc import Mapping

from torch import Tensor, nn

from beamclip.objectives.objective import Objective, Seen


class Terms(Objective):
    """Several objectives that are shown the same step.

    Its terms are `loss`, the sum; `NAME_loss` of each objective, before its weight; and whatever else one says, as `NAME_TERM`.

    Args:
        objectives: by name.
        weights: w > 0 of each.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        assert objectives.keys() == weights.keys()
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        """See `Objective`."""
        said: dict[str, dict[str, Tensor]] = {name: objective(seen) for name, objective in self.objectives.items()}
        losses = [self.weights[name] * terms["loss"] for name, terms in said.items()]
        parts = {f"{name}_{term}": value for name, terms in said.items() for term, value in terms.items()}
        return {"loss": sum(losses[1:], start=losses[0]), **parts}

    def after_backward(self) -> None:
        """See `Objective`."""
        for objective in self.objectives.values():
            assert isinstance(objective, Objective)
            objective.after_backward()
