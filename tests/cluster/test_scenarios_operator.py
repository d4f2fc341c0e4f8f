"""Operators that are killed, doubled, cut off or gone: no Job twice, no orphan, nothing hangs."""

from __future__ import annotations

from cluster.conftest import MakeLocalOperator
from cluster.stage import Stage
from support import poll

ROWS = 300
STATUS, JOBS, JOB = r"/outboxes/[^/]+/status$", r"/jobs$", r"/jobs/[^/]+$"


def test_an_operator_killed_at_each_step_of_a_resend_sends_once(
    lone_stage: Stage, make_local_operator: MakeLocalOperator
) -> None:
    operator = make_local_operator(lone_stage.namespace)
    operator.kill()
    lone_stage.record(ROWS)
    outbox = lone_stage.outbox()
    operator.killed_at("PUT", STATUS, "before")
    assert lone_stage.status("outbox", outbox) == {}
    operator.killed_at("PUT", STATUS, "after")
    operator.killed_at("POST", JOBS, "before")
    assert lone_stage.jobs("outbox", outbox) == []
    operator.killed_at("POST", JOBS, "after")
    [job] = lone_stage.jobs("outbox", outbox)
    poll(lambda: _succeeded(lone_stage, outbox), seconds=60, what="the Job's end")
    operator.killed_at("PUT", STATUS, "before")
    operator.killed_at("PUT", STATUS, "after")
    operator.killed_at("PATCH", JOB, "before")
    assert "ttlSecondsAfterFinished" not in job["spec"]
    operator.killed_at("PATCH", JOB, "after")
    operator.start()
    lone_stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    [job] = lone_stage.jobs("outbox", outbox)
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert lone_stage.status("outbox", outbox)["resend"]["round"] == 1
    assert lone_stage.depth() == lone_stage.sent() == ROWS


def _succeeded(stage: Stage, outbox: str) -> bool:
    return all(job.get("status", {}).get("succeeded") for job in stage.jobs("outbox", outbox))


def test_two_operators_make_no_job_twice(lone_stage: Stage, make_local_operator: MakeLocalOperator) -> None:
    for _ in range(2):
        make_local_operator(lone_stage.namespace)
    lone_stage.record(ROWS)
    outbox = lone_stage.outbox(resend={"batchSize": 100, "maxParallelJobs": 2})
    lone_stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    rounds = lone_stage.status("outbox", outbox)["resend"]["round"]
    assert len(lone_stage.jobs("outbox", outbox)) == 3
    assert rounds == 2
    assert lone_stage.depth() == lone_stage.sent() == ROWS
    started = [event for event in lone_stage.events(outbox) if event.startswith("ResendStarted")]
    assert len(started) == rounds


def test_an_api_server_that_restarts_is_waited_for(lone_stage: Stage, make_local_operator: MakeLocalOperator) -> None:
    operator = make_local_operator(lone_stage.namespace)
    lone_stage.record(ROWS)
    outbox = lone_stage.outbox()
    poll(lambda: lone_stage.jobs("outbox", outbox), seconds=60, what="the first Job")
    operator.proxy.stop()
    # The Job needs nobody: it ends while the operator sees nothing.
    poll(lambda: lone_stage.unsent() == 0, seconds=90, what="the end of the Job's work")
    assert operator.process is not None
    assert operator.process.poll() is None
    operator.proxy.start()
    lone_stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    assert len(lone_stage.jobs("outbox", outbox)) == 1
    assert lone_stage.depth() == ROWS


def test_deleting_a_resend_while_it_runs_leaves_no_job_and_no_lost_row(
    lone_stage: Stage, make_local_operator: MakeLocalOperator
) -> None:
    make_local_operator(lone_stage.namespace)
    outbox = lone_stage.outbox(resend={"enabled": False})
    lone_stage.shows("outbox", outbox, ready="True")
    lone_stage.record(5000)
    resend = lone_stage.resend(
        "all", outbox, createdBetween={"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    )
    poll(lambda: lone_stage.unsent() < 5000, seconds=60, what="the first rows to be sent")
    lone_stage.kube.kubectl("delete", "resend", resend, "--namespace", lone_stage.namespace, seconds=20)
    assert lone_stage.status("resend", resend) == {}
    poll(lambda: not lone_stage.kube.all("jobs", lone_stage.namespace), seconds=60, what="the Job to go")
    poll(
        lambda: not lone_stage.kube.all("pods", lone_stage.namespace, labels="app.kubernetes.io/component=resend"),
        seconds=60,
        what="its pod to go",
    )
    # A row is in the outbox or in the history, and what is in the history is in the queue.
    assert lone_stage.unsent() + lone_stage.sent() == 5000
    assert lone_stage.depth() >= lone_stage.sent()
    lone_stage.outbox(resend={"enabled": True, "batchSize": 5000})
    lone_stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    assert lone_stage.sent() == 5000


def test_a_namespace_goes_at_once_while_no_operator_runs(
    lone_stage: Stage, make_local_operator: MakeLocalOperator
) -> None:
    operator = make_local_operator(lone_stage.namespace)
    outbox, inbox = lone_stage.outbox(), lone_stage.inbox()
    lone_stage.shows("outbox", outbox, ready="True")
    lone_stage.shows("inbox", inbox, ready="True")
    lone_stage.record(2)
    resend = lone_stage.resend("one", outbox, parked=True)
    redrive = lone_stage.redrive("one", inbox, dryRun=True)
    lone_stage.reaches("resend", resend, "Succeeded")
    lone_stage.reaches("redrive", redrive, "Succeeded")
    operator.kill()
    lone_stage.kube.kubectl("delete", "namespace", lone_stage.namespace, seconds=60)
    assert lone_stage.kube.path(f"/api/v1/namespaces/{lone_stage.namespace}") is None
