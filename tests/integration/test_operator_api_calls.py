"""How the operator's requests to the API server end: refused, or unavailable, and never later than their bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User
from lightkube.resources.core_v1 import Secret

from outhaul.errors import OuthaulError
from outhaul_operator.adapters.api_calls import ApiRefused, ApiUnavailable
from outhaul_operator.adapters.kubernetes import KubernetesCluster
from outhaul_operator.metrics import OperatorMetrics
from outhaul_operator.snapshot import Trouble

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def api_server(answer: Answer) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def cluster(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> KubernetesCluster:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return KubernetesCluster(timeout_seconds=0.5, metrics=OperatorMetrics())


def status(code: int, reason: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "m"}
    return web.json_response(body, status=code)


@pytest.mark.parametrize(
    "answer",
    [
        status(429, "TooManyRequests"),
        status(500, "InternalError"),
        web.Response(status=503, text="no endpoints available"),
        web.Response(status=502, headers={}),
        web.Response(status=200, text="<html>a login page</html>"),
    ],
    ids=["429", "500", "plain-503", "bare-502", "no-json"],
)
def test_an_answer_that_decides_nothing_is_unavailable(
    answer: web.Response, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async def give(_request: web.Request) -> web.Response:
            return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)

        async with api_server(give) as url:
            api = cluster(url, tmp_path, monkeypatch)
            with pytest.raises(ApiUnavailable, match="API server at"):
                await api.secret("shop", "ways")
            await api.close()

    asyncio.run(scenario())


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> float:
        async def silent(_request: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        async with api_server(silent) as url:
            api = cluster(url, tmp_path, monkeypatch)
            started = time.monotonic()
            with pytest.raises(ApiUnavailable, match=r"within 0\.5 s"):
                await api.secret("shop", "ways")
            taken = time.monotonic() - started
            await api.close()
            return taken

    assert asyncio.run(scenario()) < 3


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        api = cluster("http://127.0.0.1:1", tmp_path, monkeypatch)
        with pytest.raises(ApiUnavailable):
            await api.check(())
        await api.close()

    asyncio.run(scenario())


def test_a_namespace_that_may_not_be_listed_keeps_no_other_from_being_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async def answer(request: web.Request) -> web.Response:
            if "/namespaces/gone/" in request.path:
                return status(403, "Forbidden")
            return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []})

        async with api_server(answer) as url:
            api = cluster(url, tmp_path, monkeypatch)
            await api.check(("gone", "shop"))
            assert "may not list Outbox objects in namespace gone" in caplog.text
            with pytest.raises(OuthaulError, match="namespace gone"):
                await api.check(("gone",))
            await api.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "reason", "told", "words"),
    [
        (404, "NotFound", "SecretMissing", "there is no Secret ways in namespace shop; create it"),
        (403, "Forbidden", "Forbidden", "the operator may not get the Secret ways in namespace shop"),
        (410, "Gone", "ApiRefused", "refused to get the Secret ways"),
    ],
)
def test_what_the_api_server_decided_is_told_in_words(
    code: int, reason: str, told: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> Trouble:
        async def refuse(_request: web.Request) -> web.Response:
            return status(code, reason)

        async with api_server(refuse) as url:
            api = cluster(url, tmp_path, monkeypatch)
            trouble = await api.secret("shop", "ways")
            await api.close()
        assert isinstance(trouble, Trouble)
        return trouble

    trouble = asyncio.run(scenario())
    assert trouble.reason == told
    assert words in trouble.message


def test_a_service_accounts_rotated_token_is_read_again(tmp_path: Path) -> None:
    """lightkube does so by itself; were that to change, the operator would be locked out after an hour."""

    async def scenario() -> list[str]:
        seen: list[str] = []

        async def guarded(request: web.Request) -> web.Response:
            seen.append(request.headers["Authorization"])
            if seen[-1] != "Bearer second":
                return status(401, "Unauthorized")
            return web.json_response({"kind": "Secret", "apiVersion": "v1", "data": {}})

        token = tmp_path / "token"
        token.write_text("first")
        async with api_server(guarded) as url:
            user = User(token="first", token_file=str(token))
            config = KubeConfig.from_one(cluster=Cluster(server=url), user=user, namespace="shop").get()
            client = AsyncClient(config, trust_env=False)
            token.write_text("second")
            await client.get(Secret, "ways", namespace="shop")
            await client.aclose()
        return seen

    assert asyncio.run(scenario())[-1] == "Bearer second"


def test_a_refusal_keeps_its_code_and_reason() -> None:
    error = ApiRefused(409, "AlreadyExists", "jobs.batch x already exists")
    assert (error.code, error.reason) == (409, "AlreadyExists")
    assert "already exists" in str(error)
