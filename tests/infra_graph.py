"""Runs the Pulumi program without an engine and keeps all that it registers, as data."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped] # its stubs are a package of their own
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs, Mocks, set_mocks
from pulumi.runtime.stack import run_pulumi_func

from outhaul_infra.passwords import PASSWORDS
from outhaul_infra.program import deploy
from outhaul_infra.settings import StackSettings, read_settings
from outhaul_infra.settings_checks import check

ROOT = Path(__file__).parent.parent
# How the engine is told that a value is secret (pulumi.runtime.rpc).
_SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270"


@dataclass(frozen=True)
class Registered:
    """One resource as the engine was told of it."""

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    secret_inputs: frozenset[str]
    parent: str
    depends_on: tuple[str, ...]
    provider: str
    custom: bool
    protect: bool
    retain_on_delete: bool
    ignore_changes: tuple[str, ...]
    timeouts: Mapping[str, str]

    @property
    def is_object(self) -> bool:
        """Whether it stands for one object of Kubernetes."""
        return self.custom and self.type.startswith("kubernetes:")

    @property
    def manifest(self) -> dict[str, Any]:
        """The object, as it would be applied."""
        _, group, kind = self.type.split(":")
        return {"apiVersion": group.removeprefix("core/"), "kind": kind} | dict(self.inputs)


@dataclass
class Graph:
    """All resources, in the order in which what they depend on allows them."""

    resources: list[Registered] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def objects(self) -> list[dict[str, Any]]:
        """The manifests, in that order."""
        return [each.manifest for each in self.resources if each.is_object]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """The object of this kind and name."""
        [found] = [o for o in self.objects() if o["kind"] == kind and o["metadata"]["name"] == name]
        return found

    def resource(self, name: str) -> Registered:
        """The resource of this logical name."""
        [found] = [each for each in self.resources if each.name == name]
        return found

    def names(self) -> list[str]:
        """Kind and logical name of each."""
        return [f"{each.type.rpartition(':')[2]} {each.name}" for each in self.resources]


class _Recorder(MockMonitor):
    """The mocks' monitor drops what the engine is told beside the inputs."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(_NoEngine())
        self.graph = graph

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the monitor's name for it
        """Keep the whole request."""
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call] # the SDK's test double is untyped
        if request.type != "pulumi:pulumi:Stack":
            plain, marked = _plain(json_format.MessageToDict(request.object))
            self.graph.resources.append(
                Registered(
                    urn=response.urn,
                    type=request.type,
                    name=request.name,
                    inputs=plain,
                    secret_inputs=frozenset(marked),
                    parent=request.parent,
                    depends_on=tuple(request.dependencies),
                    provider=request.provider,
                    custom=request.custom,
                    protect=request.protect,
                    retain_on_delete=request.retainOnDelete,
                    ignore_changes=tuple(request.ignoreChanges),
                    timeouts=json_format.MessageToDict(request.customTimeouts),
                )
            )
        return response


class _NoEngine(Mocks):
    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return f"{args.name}-id", args.inputs

    def call(self, args: MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program asks the provider: {args.token}")


def _plain(written: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The inputs without the marks on secrets, and which of them were marked."""
    marked = []
    plain = {}
    for key, value in written.items():
        if isinstance(value, dict) and _SECRET_MARK in value.values():
            marked.append(key)
        plain[key] = _unmarked(value)
    return plain, marked


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        if _SECRET_MARK in value.values():
            return _unmarked(value["value"])
        return {key: _unmarked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def passwords() -> dict[str, str]:
    """A password for every identity, each of its own, of characters that must be escaped somewhere."""
    return {key: f"p@ss/{key}:%{index:02d}'\"" for index, key in enumerate(PASSWORDS)}


def config(**written: Any) -> dict[str, str]:
    """A stack's configuration as Pulumi hands it over: ``rabbitmq={"mode": ...}`` and so on, with all passwords."""
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in written.items()}
    return {f"outhaul:{key}": value for key, value in (passwords() | given).items()}


def settings(**written: Any) -> StackSettings:
    """The same, read and checked."""
    whole = config(**written)
    return check(read_settings(whole, secret_keys=frozenset(f"outhaul:{key}" for key in PASSWORDS)))


def graph_of(given: StackSettings, *, preview: bool = False) -> Graph:
    """What the program registers for these settings."""
    graph = Graph()

    async def run() -> None:
        # The SDK gives every thread that talks to the monitor a loop and closes none of them: one thread, one loop.
        with ThreadPoolExecutor(1) as thread:
            loop = thread.submit(_loop_of_thread).result()
            asyncio.get_running_loop().set_default_executor(thread)
            set_mocks(_NoEngine(), project="outhaul", stack="test", preview=preview, monitor=_Recorder(graph))
            await run_pulumi_func(lambda: graph.outputs.update(deploy(given, root=ROOT)))
            thread.submit(loop.close).result()

    asyncio.run(run())
    return graph


def _loop_of_thread() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def texts(value: Any) -> Iterator[str]:
    """Every text in it, keys too, Secrets' entries decoded as well."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def entries(manifest: Mapping[str, Any]) -> dict[str, str]:
    """A Secret's entries in plain."""
    return {key: base64.b64decode(value).decode() for key, value in manifest["data"].items()}
