"""The Job that brings a database up to date, when it fails: what a person corrects, the next upgrade carries out."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.shop import Shop
from support import poll

VALUES: dict[str, Any] = {
    "operator": {"enabled": False},
    "functions": {"waybill": {"enabled": False}},
    "topology": {"enabled": False},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tries", [1, 13])
def test_a_corrected_password_is_tried_by_the_next_upgrade(shop: Shop, tries: int) -> None:
    """Whether the Job has failed for good, even twice, or waits longer and longer between its tries."""
    right = shop.entries("order-database-owner")["url"]
    shop.secret("order-database-owner", {"url": right.replace("@", "-no@")})
    values = {**VALUES, "schema": {"backoffLimit": tries - 1}}
    shop.upgrade(values, wait=False)
    [first] = failing = set(_jobs(shop))
    poll(lambda: _status(shop, first).get("failed"), seconds=90, what=f"a failed try of {first}")
    if tries == 1:
        poll(lambda: "Failed" in _conditions(shop, first), seconds=60, what=f"the end of {first}")
        shop.upgrade(values, wait=False)
        failing = poll(lambda: set(_jobs(shop)) - {first}, seconds=30, what="another Job") or failing
        [second] = failing
        poll(lambda: "Failed" in _conditions(shop, second), seconds=90, what=f"the end of {second}")
    assert not _tables(shop)

    shop.secret("order-database-owner", {"url": right})
    shop.upgrade(values)
    done = _jobs(shop)
    assert len(done) == 1
    assert not done.keys() & failing
    assert "outbox" in _tables(shop)

    shop.upgrade(values)
    assert _jobs(shop) == done, "what was done is not done again"
    [name] = done
    shop.kube.kubectl("delete", "job", name, "--namespace", shop.namespace)
    shop.upgrade(values)
    [again] = _jobs(shop)
    assert again == first
    assert "Complete" in _conditions(shop, again)


@pytest.mark.timeout(600)
def test_it_runs_again_when_it_is_told_to(shop: Shop) -> None:
    """As for another image behind the same tag; on tables that are there it changes nothing."""
    shop.upgrade(VALUES)
    first = _jobs(shop)
    tables = _tables(shop)
    shop.upgrade({**VALUES, "schema": {"rerun": "once more"}})
    assert not _jobs(shop).keys() & first.keys()
    assert _tables(shop) == tables


def _jobs(shop: Shop) -> dict[str, str]:
    """Name and uid of those that are not on their way out."""
    found = shop.kube.all("jobs", shop.namespace, labels="app.kubernetes.io/component=schema-order")
    metadata = [job["metadata"] for job in found]
    return {each["name"]: each["uid"] for each in metadata if "deletionTimestamp" not in each}


def _status(shop: Shop, name: str) -> dict[str, Any]:
    job = shop.kube.read("jobs", shop.namespace, name)
    assert job is not None
    return dict(job.get("status", {}))


def _conditions(shop: Shop, name: str) -> set[str]:
    return {each["type"] for each in _status(shop, name).get("conditions", ()) if each["status"] == "True"}


def _tables(shop: Shop) -> set[str]:
    return {str(name) for (name,) in shop.rows("order", "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
