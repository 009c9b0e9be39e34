from dataclasses import replace

from beamclip.reporting.origins import how_chosen
from beamclip.reporting.results import costs


def test_a_start_that_several_trials_share_is_counted_once(swept):
    """What a student that starts from another cost includes what that one cost; the sweep paid for it once."""
    start, *others = swept.trials[:3]
    trials = [replace(start, metrics={"cost/device_seconds": 100.0})]
    both = {"cost/start_device_seconds": 100.0}
    trials += [
        replace(row, metrics={"cost/device_seconds": seconds} | both)
        for row, seconds in zip(others, (170.0, 150.0), strict=True)
    ]
    assert (
        "All 3 trials together took 3m40s of device time."
        in costs(replace(swept, trials=tuple(trials))).text
    )


def test_what_is_said_of_noise_is_what_was_done(swept):
    assert "Welch" in " ".join(how_chosen(swept).text) and "with other seeds" in " ".join(
        how_chosen(swept).text
    )
    assert "was to be trained with the seeds 0, 1, and was." in " ".join(how_chosen(swept).text)
    lost = replace(
        swept, trials=(replace(swept.trials[0], metrics={}, status="FAILED"), *swept.trials[1:])
    )
    assert (
        f"; 1 of {len(swept.cells)} lack the result of one or more, and are not compared"
        in " ".join(how_chosen(lost).text)
    )
    once = replace(swept, trials=tuple(row for row in swept.trials if row.values["seed"] == "0"))
    said = " ".join(how_chosen(once).text)
    assert "One seed (0) a trial" in said and "Newcombe" in said and "Welch" not in said
