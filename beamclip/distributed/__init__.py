"""Everything that imports Ray. Importing this package sets Ray's environment variables."""

import os

# Those that the user has set are kept. They are set here and not when the cluster is joined:
# Ray reads some of them when it is imported, which any module of this package may do first.
_SETTINGS = {
    # The sweep shows its own progress.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Results go to MLflow, through one writer.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Not every report holds the metric that a search or ASHA looks at.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Don't hide GPUs from processes that ask for none (Ray's default today).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A sweep starts more small processes than Ray expects, and Ray would warn about them.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    # Train polls its workers every 2 s by default. A short trial would spend more time waiting for
    # that than training. Train's own metrics are for Prometheus, which a sweep doesn't have.
    # docs/benchmarks.md has the time that is saved.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}

for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
