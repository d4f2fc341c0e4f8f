"""What is known of a Job: how it ended, what its pod reported, and why its pod does not run."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from operator_support import NOW, after
from outhaul_operator.adapters.job_views import JOB_NAME_LABEL, job_views
from outhaul_operator.conditions import instant
from outhaul_operator.jobs import CONTAINER
from outhaul_operator.snapshot import JobView

NAME = "outbox-0a1b2c3d-g1-r1-0"
CREATING = {"waiting": {"reason": "ContainerCreating"}}


def a_job(*, name: str = NAME, ended: str = "", seconds: float = 0.0, ttl: int | None = None, **words: str) -> Job:
    conditions = [{"type": ended, "status": "True", "lastTransitionTime": instant(after(9)), **words}] if ended else []
    made: Any = Job.from_dict(
        {
            "metadata": {"name": name, "creationTimestamp": instant(after(-seconds))},
            "spec": {"template": {}, **({} if ttl is None else {"ttlSecondsAfterFinished": ttl})},
            "status": {"conditions": conditions, "startTime": instant(after(-seconds))},
        }
    )
    return cast("Job", made)


def a_pod(state: dict[str, Any] | None = None, *, phase: str = "Pending", seconds: float = 0.0, **status: Any) -> Pod:
    statuses = [{"name": CONTAINER, "image": "outhaul/operator:9", "imageID": "", "ready": False, "restartCount": 0}]
    labels = {JOB_NAME_LABEL: NAME}
    made: Any = Pod.from_dict(
        {
            "metadata": {"name": "a-pod", "labels": labels, "creationTimestamp": instant(after(-seconds))},
            "status": {
                "phase": phase,
                "containerStatuses": [] if state is None else [{**statuses[0], "state": state}],
                **status,
            },
        }
    )
    return cast("Pod", made)


def only(*pods: Pod, job: Job | None = None) -> JobView:
    [view] = job_views([job or a_job()], pods, NOW)
    return view


def test_a_job_whose_pod_runs_is_under_way() -> None:
    view = only(a_pod({"running": {}}, phase="Running", seconds=600), job=a_job(seconds=600))
    assert (view.state, view.reason, view.message) == ("active", "", "")


def test_a_job_that_no_pod_is_made_for_says_what_may_forbid_it() -> None:
    assert only(job=a_job(seconds=29)).reason == ""
    view = only(job=a_job(seconds=30))
    assert view.reason == "PodNotStarted"
    for word in ("ServiceAccount", "quota", "admission", f"kubectl describe job {NAME}"):
        assert word in view.message


@pytest.mark.parametrize("state", [None, CREATING])
def test_a_pod_that_is_being_created_for_long_says_what_may_be_missing(state: dict[str, Any] | None) -> None:
    job = a_job(seconds=600)
    assert only(a_pod(state, seconds=29), job=job).reason == ""
    view = only(a_pod(state, seconds=31), job=job)
    assert view.reason == "PodNotStarted"
    assert "mounts" in view.message
    assert "kubectl describe pod a-pod" in view.message


def test_the_words_do_not_change_from_one_look_to_the_next() -> None:
    first = only(job=a_job(seconds=30))
    assert first.message == only(job=a_job(seconds=3000)).message


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_pulled_is_named(reason: str) -> None:
    view = only(a_pod({"waiting": {"reason": reason, "message": "back-off 10s"}}))
    assert view.reason == "ErrImagePull"
    assert "outhaul/operator:9" in view.message


def test_a_container_that_cannot_be_made_says_why() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "ways" not found'}
    view = only(a_pod({"waiting": waiting}))
    assert (view.reason, view.message) == ("CreateContainerConfigError", 'secret "ways" not found')


def test_a_pod_without_a_node_says_why() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    view = only(a_pod(conditions=[unscheduled]))
    assert (view.reason, view.message) == ("Unschedulable", "0/3 nodes")


def test_a_failed_job_says_why_and_what_its_pod_reported() -> None:
    report = {"terminated": {"exitCode": 67, "message": json.dumps({"reason": "CredentialsRefused", "counts": {}})}}
    job = a_job(ended="Failed", reason="PodFailurePolicy", message="exit code 67", seconds=60)
    view = only(a_pod(report, phase="Failed", seconds=50), job=job)
    assert (view.state, view.reason, view.message) == ("failed", "PodFailurePolicy", "exit code 67")
    assert view.result is not None
    assert view.result.reason == "CredentialsRefused"
    assert view.finished_at == after(9)


def test_a_job_that_succeeded_tells_the_last_report_and_whether_it_expires() -> None:
    done = {"terminated": {"exitCode": 0, "message": json.dumps({"counts": {"sent": 5}})}}
    job = a_job(ended="Complete", reason="CompletionsReached", ttl=3600)
    view = only(a_pod({"terminated": {"exitCode": 1}}, phase="Failed", seconds=9), a_pod(done), job=job)
    assert (view.state, view.reason, view.expires) == ("succeeded", "", True)
    assert view.result is not None
    assert view.result.counts == {"sent": 5}


def test_what_is_no_report_is_none() -> None:
    assert only(a_pod({"terminated": {"exitCode": 1, "message": "Killed"}}, phase="Failed")).result is None


@pytest.mark.parametrize("ending", ["FailureTarget", "SuccessCriteriaMet"])
def test_a_job_is_not_over_while_its_pods_still_end(ending: str) -> None:
    assert only(a_pod({"running": {}}, phase="Running"), job=a_job(ended=ending)).state == "active"


def test_jobs_come_by_name_each_with_its_own_pods() -> None:
    views = job_views([a_job(name="b", seconds=60), a_job(seconds=60), a_job(name="a")], [a_pod()], NOW)
    assert [(view.name, view.reason) for view in views] == [("a", ""), ("b", "PodNotStarted"), (NAME, "")]
