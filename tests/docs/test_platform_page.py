"""docs/platform.md shows the objects of a call as they are."""

from __future__ import annotations

import itertools

import yaml  # type: ignore[import-untyped, unused-ignore]

from tests.conftest import ROOT
from tests.docs.platform_page import EXPLAINED, PAGE, block, shown


def test_the_yaml_is_that_of_a_call() -> None:
    """If this fails: ``python -m tests.docs.platform_page`` writes it anew."""
    assert shown() == block()


def test_the_yaml_can_be_read() -> None:
    """It is a Secret and a Job, and each explanation stands in it once."""
    secret, job = yaml.safe_load_all(block())
    assert (secret["kind"], job["kind"], secret["metadata"]["name"]) == ("Secret", "Job", job["metadata"]["name"])
    comments = [line.strip()[2:] for line in block().splitlines() if line.lstrip().startswith("#")]
    assert sorted(comments) == sorted(EXPLAINED.values())


def test_each_rule_of_the_role_is_explained() -> None:
    """By a row of the table: what it is for, and what does not work without it."""
    role = yaml.safe_load((ROOT / "docs/role.yaml").read_text(encoding="utf-8"))
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for rule in role["rules"]:
        for resource, verb in itertools.product(rule["resources"], rule["verbs"]):
            assert any(row.startswith(f"| {resource}: ") and verb in row.split("|")[1] for row in rows), rule


def test_each_part_of_job_and_pod_is_explained() -> None:
    """A field that is added needs a sentence."""
    _, job = yaml.safe_load_all(block())
    path = "/batch/v1/Job/spec"
    for key in job["spec"].keys() - {"template"}:
        assert f"{path}/{key}" in EXPLAINED
    for key in job["spec"]["template"]["spec"]:
        assert f"{path}/template/spec/{key}" in EXPLAINED
