"""The chart's alerts fire when they must, stay quiet when they must, and lead to their runbooks."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from deploy.alert_trials import TRIALS, Fires, Trial
from host.catalogue import ALERTS, rules
from host.test_catalogue import needs_promtool

RULES = {rule["alert"]: rule for rule in rules() if "alert" in rule}
GROUPS = [group["name"] for group in yaml.safe_load(ALERTS.read_text())["groups"]]
VALUE = r'{{ \$value(?: \| (?:humanizePercentage|humanizeDuration|printf "%.0f"))? }}'


def rendered(template: str, found: Fires) -> str:
    """The text of an annotation; fails if it names a label that the alert lacks."""
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda match: found.labels[match[1]], template)
    return re.sub(VALUE, lambda _: found.value, text)


def expected(alert: str, found: Fires) -> dict[str, object]:
    annotations = {name: rendered(text, found) for name, text in RULES[alert]["annotations"].items()}
    return {"exp_labels": found.labels | RULES[alert]["labels"], "exp_annotations": annotations}


def promtools(alert: str, trial: Trial) -> dict[str, object]:
    """A trial as promtool reads it."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in trial.series.items()],
        "alert_rule_test": [
            {"eval_time": time, "alertname": alert, "exp_alerts": [expected(alert, each) for each in found]}
            for time, found in trial.at.items()
        ],
    }


@needs_promtool
@pytest.mark.parametrize("alert", RULES)
def test_it_fires_when_it_must_and_only_then(alert, tmp_path):
    for number, trial in enumerate(TRIALS[alert]):
        file = tmp_path / f"{number}.json"  # which is YAML as well
        # without their order promtool takes groups at random, and an alert may see what was recorded one step ago
        file.write_text(
            json.dumps(
                {
                    "rule_files": [str(ALERTS)],
                    "evaluation_interval": trial.every,
                    "group_eval_order": GROUPS,
                    "tests": [promtools(alert, trial)],
                }
            )
        )
        ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"trial {number}: {ran.stdout}{ran.stderr}"


def test_every_alert_has_trials_in_which_it_fires_and_in_which_it_never_does():
    assert list(TRIALS) == list(RULES)
    for alert, trials in TRIALS.items():
        assert any(found for trial in trials for found in trial.at.values()), alert
        assert any(trial.series and not any(trial.at.values()) for trial in trials), alert


def test_an_alert_that_waits_is_quiet_before():
    for alert, trials in TRIALS.items():
        if "for" in RULES[alert]:
            assert any([] in trial.at.values() and any(trial.at.values()) for trial in trials), alert


@pytest.mark.parametrize("alert", RULES)
def test_it_says_what_to_do(alert):
    rule = RULES[alert]
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert list(rule["labels"]) == ["severity"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert list(rule["annotations"]) == ["summary", "description", "runbook_url"]
    assert len(rule["annotations"]["summary"]) < 100
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")


def test_the_rules_need_no_template_of_helm():
    """The chart takes the file as it is: between braces there are only Prometheus' own words."""
    assert "{{" not in re.sub(VALUE + r"|{{ \$labels\.\w+ }}", "", ALERTS.read_text())
