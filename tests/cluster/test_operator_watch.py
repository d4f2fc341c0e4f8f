"""A watch that the API server gives up with an error of its own: the process ends and says so, and is started anew."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web

from cluster.api_proxy import ApiProxy
from cluster.kube import Kube
from cluster.operators import LocalOperator
from cluster.stage import API_VERSION
from support import poll

OUTBOX = {"databaseSecretRef": {"name": "nowhere"}, "brokerSecretRef": {"name": "nowhere"}, "interval": "5s"}
BROKEN = {"kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500, "message": "storage is broken"}


class ErringProxy(ApiProxy):
    """Once ``broken``, every watch is answered, and told of an error."""

    broken = False

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.broken and request.query.get("watch") in {"true", "1"}:
            return web.Response(text=json.dumps({"type": "ERROR", "object": BROKEN}) + "\n")
        return await super()._forward(request)


def test_an_operator_whose_watch_is_given_up_ends_in_one_line_and_goes_on_once_it_is_started_again(
    kube: Kube, crds: None, namespace: str, tmp_path: Path
) -> None:
    document = {"apiVersion": API_VERSION, "kind": "Outbox", "metadata": {"name": "o"}, "spec": OUTBOX}
    kube.apply(document, namespace=namespace)
    single = kube.config.get()
    assert single is not None
    with ErringProxy(single) as proxy:
        operator = LocalOperator(namespace, tmp_path, proxy)
        operator.start()
        poll(lambda: observed(kube, namespace) == 1, seconds=40, what="the first look")
        # Its watches end, and the next ones are told of an error.
        proxy.stop()
        proxy.broken = True
        proxy.start()
        assert operator.process is not None
        assert operator.process.wait(60) == 1
        told = operator.log.read_text()
        assert "watching the custom resources failed" in told
        assert "storage is broken" in told
        assert "Logging error" not in told
        assert "ended: watching" in told.splitlines()[-1]

        kube.apply({**document, "spec": {**OUTBOX, "interval": "6s"}}, namespace=namespace)
        proxy.broken = False
        operator.start()
        poll(lambda: observed(kube, namespace) == 2, seconds=40, what="the change made meanwhile")
        assert operator.stop() == 0


def observed(kube: Kube, namespace: str) -> int:
    found = kube.read("outboxes", namespace, "o") or {}
    return int(found.get("status", {}).get("observedGeneration", 0))
