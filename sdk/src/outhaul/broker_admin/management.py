"""RabbitMQ's management HTTP API: the few calls Outhaul makes, each bounded, each failure with what to do about it.

Needed to set policies and to compare a broker with the declared topology; sending and consuming need none of it.
Calls block: from asyncio use ``asyncio.to_thread``. The API is described at
https://www.rabbitmq.com/docs/http-api-reference.
"""

from __future__ import annotations

import base64
import html
import json
import socket
import ssl
from typing import Any
from urllib.parse import quote

from outhaul.broker_admin.http_call import Answer, call
from outhaul.errors import BrokerUnreachable, TopologyError
from outhaul.settings import ManagementSettings


class Management:
    """One management API and one virtual host. A connection per request; safe to use from several threads."""

    def __init__(self, settings: ManagementSettings | str, *, virtual_host: str) -> None:
        self.settings = ManagementSettings.parse(settings)
        self.virtual_host = virtual_host

    def get(self, *path: str, query: str = "") -> Any:
        """What stands at that path, or None for a 404."""
        answer = self._ask("GET", path, query=query)
        return None if answer.status == 404 else self._decoded(answer)

    def get_in_vhost(self, kind: str, *path: str, query: str = "") -> Any:
        """As `get`, below ``/api/<kind>/<virtual host>``."""
        return self.get(kind, self.virtual_host, *path, query=query)

    def put_in_vhost(self, kind: str, *path: str, body: dict[str, Any]) -> None:
        """Create or replace. Raises TopologyError when the broker refuses it."""
        self._change("PUT", (kind, self.virtual_host, *path), body)

    def post_in_vhost(self, kind: str, *path: str, body: dict[str, Any]) -> None:
        """Create something without a name of its own, a binding. Raises TopologyError when the broker refuses it."""
        self._change("POST", (kind, self.virtual_host, *path), body)

    def version(self) -> tuple[int, ...]:
        """The broker's version, as (4, 3, 6)."""
        overview = self.get("overview", query="?columns=rabbitmq_version")
        text = overview.get("rabbitmq_version", "") if isinstance(overview, dict) else ""
        numbers = tuple(int(part) for part in str(text).split("-")[0].split(".") if part.isdigit())
        if len(numbers) < 2:
            raise self._unreachable("does not say which version it is", "check that the URL is RabbitMQ's")
        return numbers

    def alarms(self) -> tuple[str, ...]:
        """Why the cluster takes no messages, a sentence each; empty when it takes them."""
        answer = self._ask("GET", ("health", "checks", "alarms"), accepted=503)
        said = self._decoded(answer)
        if answer.status != 503:
            return ()
        found = said.get("alarms") if isinstance(said, dict) else None
        alarms = {(str(each.get("resource", "")), str(each.get("node", ""))) for each in found or [{}]}
        return tuple(
            f"the {resource or 'resource'} alarm is on at node {node or '?'}: nothing is taken until it is off"
            for resource, node in sorted(alarms)
        )

    def running_nodes(self) -> int | None:
        """How many nodes of the cluster run; None when the user may not know (it lacks the tag ``monitoring``)."""
        answer = self._ask("GET", ("nodes",), forbidden_is_error=False)
        if answer.status == 401:
            return None
        nodes = self._decoded(answer)
        return sum(1 for node in nodes if node.get("running"))

    def require_virtual_host(self) -> None:
        """Raise TopologyError unless the virtual host exists and the user may see it."""
        # Every virtual host has this exchange. Asking for the virtual host itself takes an administrator.
        if self.get_in_vhost("exchanges", "amq.direct") is None:
            raise TopologyError(
                f"virtual host {self.virtual_host!r} does not exist, or user {self.settings.user!r} has no permissions "
                f"in it: rabbitmqctl add_vhost {self.virtual_host}; rabbitmqctl set_permissions -p {self.virtual_host} "
                f"{self.settings.user} '.*' '.*' '.*'"
            )

    def _change(self, method: str, path: tuple[str, ...], body: dict[str, Any]) -> None:
        answer = self._ask(method, path, body)
        if answer.status == 404:
            raise TopologyError(f"{'/'.join(path)}: what it belongs to does not exist: {self._reason(answer)}")

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        body: dict[str, Any] | None = None,
        *,
        query: str = "",
        forbidden_is_error: bool = True,
        accepted: int | None = None,
    ) -> Answer:
        settings = self.settings
        password = settings.secret.read(setting=settings.setting) or ""
        credentials = base64.b64encode(f"{settings.user}:{password}".encode()).decode()
        try:
            answer = call(
                method,
                f"{settings.base_url}/api/{'/'.join(quote(part, safe='') for part in path)}{query}",
                body=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
                context=settings.tls.context(setting=settings.setting) if settings.tls else None,
                timeout_seconds=settings.timeout_seconds,
            )
        except OSError as error:
            raise self._no_answer(error) from error
        if answer.status == 401 and not forbidden_is_error and self._reason(answer) == "Not monitor user":
            return answer
        if answer.status < 300 or answer.status in {404, accepted}:
            return answer
        raise self._refusal(answer, "/".join(path))

    def _refusal(self, answer: Answer, what: str) -> BrokerUnreachable | TopologyError:
        """The error that fits an answer that is neither success nor 404."""
        reason = self._reason(answer)
        user = self.settings.user
        if answer.status == 401:
            if reason == "Not management user":
                return self._unreachable(
                    f"user {user!r} lacks the management tag",
                    f"rabbitmqctl set_user_tags {user} management (policymaker to set policies)",
                    refused=True,
                )
            if "virtual host" in reason:
                return TopologyError(
                    f"user {user!r} has no permissions in virtual host {self.virtual_host!r}: rabbitmqctl "
                    f"set_permissions -p {self.virtual_host} {user} '.*' '.*' '.*'"
                )
            if reason in {"Login failed", "Not_Authorized"}:
                return self._unreachable(
                    "login refused",
                    f"check user and password of {self.settings.setting}; guest is let in from localhost only",
                    refused=True,
                )
            return TopologyError(
                f"{what}: user {user!r} may not do this ({reason}); policies take the tag policymaker (rabbitmqctl "
                f"set_user_tags {user} policymaker monitoring), exchanges, queues and bindings the permission to "
                "configure, write and read them"
            )
        if answer.status in {400, 403, 405, 409}:
            return TopologyError(f"{what}: the broker refuses it: {reason}")
        return self._unreachable(f"answered {answer.status}: {reason[:200]}", "see the broker's log")

    def _no_answer(self, error: OSError) -> BrokerUnreachable:
        setting = self.settings.setting
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._unreachable(f"certificate refused: {error.verify_message}", f"check {setting} and its ca_file")
        if isinstance(error, ssl.SSLError):
            return self._unreachable(f"TLS failed: {error.reason}", f"check that the port of {setting} speaks TLS")
        if isinstance(error, socket.gaierror):
            return self._unreachable("the host name is unknown", f"check {setting}")
        if isinstance(error, ConnectionRefusedError):
            return self._unreachable(
                "connection refused", f"enable the plugin rabbitmq_management, or check host and port of {setting}"
            )
        return self._unreachable(str(error) or type(error).__name__, f"check {setting}")

    def _unreachable(self, why: str, remedy: str, *, refused: bool = False) -> BrokerUnreachable:
        return BrokerUnreachable(self.settings.address, f"management API: {why}", remedy, refused=refused)

    def _decoded(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body) if answer.body else None
        except ValueError as error:
            raise self._unreachable(
                "what answers is not RabbitMQ's management API", f"check the port of {self.settings.setting}"
            ) from error

    def _reason(self, answer: Answer) -> str:
        """The broker's own words, on one line; it escapes them for browsers."""
        try:
            said = json.loads(answer.body)
        except ValueError:
            return f"HTTP {answer.status}"
        reason = said.get("reason", "") if isinstance(said, dict) else ""
        return " ".join(html.unescape(str(reason)).split())
