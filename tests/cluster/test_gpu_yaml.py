"""Check cluster/gpu.yaml without an AWS account.

By Ray's own schema, and for the settings that keep strangers out and costs low.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from beamclip.config import load_experiment
from beamclip.distributed import cluster
from beamclip.distributed.cluster import concurrent_trials

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan():
    return yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())


def commands(plan):
    return [line for key, lines in plan.items() if key.endswith("commands") for line in lines]


def test_ray_accepts_it(plan):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(plan)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["node_config"]["InstanceType"].startswith("g")


def test_only_ssh_is_open_to_the_world(plan):
    rules = plan["provider"]["security_group"]["IpPermissions"]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("tcp", 22, 22)
    }
    (start,) = [line for line in plan["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in start


def test_only_the_token_allows_running_code(plan):
    assert plan["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in line for line in commands(plan))
    assert not any("RAY_AUTH_MODE=disabled" in line for line in commands(plan))


def test_workers_are_spot_instances_and_stop_when_idle(plan):
    gpu = plan["available_node_types"]["gpu"]
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < gpu["max_workers"] <= plan["max_workers"]
    assert plan["idle_timeout_minutes"] <= 15
    head = plan["available_node_types"][plan["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    # No trial may run on the node that runs the sweep's driver.
    assert head["resources"] == {"CPU": 0}


def test_every_node_installs_the_same_versions(plan):
    (install,) = [
        line
        for line in plan["setup_commands"]
        if "pip install" in line and "beamclip-source" in line
    ]
    constraints = re.search(r"-c ~/beamclip-source/(\S+)", install).group(1)
    assert "==" in (ROOT / constraints).read_text()
    assert plan["file_mounts"]["~/beamclip-source"] == "."
    assert "optuna" in install


def test_the_imagenet_preset_fits_the_whole_cluster(plan, monkeypatch):
    monkeypatch.setattr(cluster, "max_nodes", lambda: cluster._planned_nodes(plan))
    assert concurrent_trials(load_experiment("imagenet", {"data.path": "/x"})) == 1
    assert cluster.max_resources() == {"CPU": 64, "GPU": 8}


def test_every_command_is_valid_shell_as_ray_wraps_it(plan):
    from ray.autoscaler._private.command_runner import _with_interactive

    for command in commands(plan):
        wrapped = _with_interactive(command)
        line = shlex.split(wrapped[-1])[-1] if isinstance(wrapped, list) else wrapped
        result = subprocess.run(
            ["bash", "-n", "-c", line], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (0, ""), command


def test_values_that_the_user_must_replace_are_marked(plan):
    text = (ROOT / "cluster" / "gpu.yaml").read_text()
    lines = [
        line
        for line in text.splitlines()
        if re.search(r"YOUR-|fs-0000|us-west-2\S*$|us-west-2 ", line) and not line.startswith("#")
    ]
    assert text.count("# EDIT") == 4
    assert all("EDIT" in line or "fs-0000" in line or "YOUR-BUCKET" in line for line in lines)
