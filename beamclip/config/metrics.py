"""Names of the metrics that several packages use. Accuracies are in percent, 0 to 100."""

VAL_TOP1 = "linear_probe/val_top1"
"""Accuracy of the linear probe on val; trials are compared and selected by it."""
TEST_TOP1 = "linear_probe/test_top1"
"""Accuracy of the linear probe on test."""
KNN_VAL_TOP1 = "knn/val_top1"
KNN_TEST_TOP1 = "knn/test_top1"
ZERO_SHOT_VAL_TOP1 = "zero_shot/val_top1"
"""The one metric on val that every epoch reports; ASHA stops trials by it."""
ZERO_SHOT_TEST_TOP1 = "zero_shot/test_top1"

IMAGES_PER_SECOND = "train/images_per_second"
DEVICE_SECONDS = "cost/device_seconds"
"""Seconds of training, summed over all devices."""
START_DEVICE_SECONDS = "cost/start_device_seconds"
"""The part of `DEVICE_SECONDS` that went into the student this one started from."""
IMAGES_SEEN = "cost/images_seen"
"""Training images that went through the student."""
TEACHER_IMAGES = "cost/teacher_images"
"""Images that teachers would have to encode for this student alone."""

IMAGES_ENCODED = "teacher/images_encoded"
"""Images that teachers encoded while the sweep was prepared, or during a trial."""
IMAGES_ENCODED_IN_TOTAL = "teacher/images_encoded_in_all"
"""The same for all experiments that were prepared together."""
TEACHER_ZERO_SHOT_VAL_TOP1 = "teacher/zero_shot_val_top1"


def near_chance(low: float, classes: int) -> bool:
    """Return whether a classifier may be hardly better than guessing.

    An accuracy is near chance up to 1.5 times the accuracy of guessing, but at most ten points
    above it: up to 60 % with two classes, 15 % with ten, 0.15 % with a thousand. The lower end of
    the accuracy's interval is compared. With few images it is low, so a good teacher may be
    suspected, but a bad one is not missed.

    Args:
        low: lower end of the accuracy's 95 % interval, in percent.
        classes: number of classes.
    """
    chance = 100 / classes
    return low <= chance + min(chance / 2, 10)
