"""`--seeds N`: every cell of a sweep again with other seeds, so that its numbers come with the noise that training adds."""

from beamclip.config import Experiment, Sweep, UserError, choice


def with_seeds(sweep: Sweep, base: Experiment, count: int) -> Sweep:
    """The sweep with a dimension `seed` of `count` values, from the experiment's own seed on.

    Only what the seed decides is repeated: the student's weights and the order of samples. Views and the split into train and val have
    seeds of their own, so that no store has to be made again.

    Raises:
        UserError: fewer than one, the space varies `seed` already, or its trials are drawn, so that none would be repeated.
    """
    if count < 1:
        raise UserError(f"--seeds is {count}; give the number of seeds that every cell is trained with, 1 or more")
    if "seed" in sweep.varied:
        raise UserError(f"sweep {sweep.name} varies seed already, so --seeds {count} can't; leave it out, or take seed out of the space")
    if sweep.search != "grid":
        raise UserError(f"--seeds repeats the cells of a grid, but search is {sweep.search}; list the values, or leave --seeds out")
    return sweep.model_copy(update={"space": {**sweep.space, "seed": choice(*range(base.seed, base.seed + count))}})
