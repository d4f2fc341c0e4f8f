"""`rabbitmq.mode: statefulset`: the broker made by this stack alone."""

from __future__ import annotations

import pulumi

from outhaul_infra import names, passwords
from outhaul_infra import rabbitmq_manifests as manifests
from outhaul_infra.broker_definitions import VIRTUAL_HOST, definitions
from outhaul_infra.endpoints import BrokerEndpoint
from outhaul_infra.manifests import Manifest, checksum, secret
from outhaul_infra.network import rabbitmq_policy
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack


class RabbitMQStatefulSet(pulumi.ComponentResource):
    """Nodes, their configuration and users, and the Service that leads to them."""

    def __init__(self, name: str, stack: Stack, *, tls_secret: str | None, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:RabbitMQStatefulSet", name, None, opts)
        settings, tls = stack.settings.rabbitmq, tls_secret is not None
        users = broker_definitions(stack)
        beside: list[Manifest] = [
            manifests.configuration_map(settings, stack.data, tls=tls),
            secret(names.RABBITMQ_USERS, stack.data, {"definitions.json": users}, part=names.RABBITMQ),
            secret(
                names.RABBITMQ_COOKIE,
                stack.data,
                {"cookie": stack.password(passwords.ERLANG_COOKIE)},
                part=names.RABBITMQ,
            ),
            admin_secret(stack),
            *manifests.services(stack.data, tls=tls),
            *manifests.others(settings, stack.data),
        ]
        if stack.settings.network_policies:
            beside.append(rabbitmq_policy(stack.settings))
        made = [register(manifest, stack.options(self)) for manifest in beside]
        nodes = manifests.stateful_set(
            settings,
            stack.data,
            users_checksum=checksum(users),
            retain_data=stack.settings.retain_data,
            tls_secret=tls_secret,
        )
        self.nodes = register(nodes, stack.data_options(self, *made))
        self.endpoint = service_endpoint(stack.data, tls=tls)
        self.register_outputs({"host": self.endpoint.host, "port": self.endpoint.port})


def broker_definitions(stack: Stack) -> str:
    """The definitions file with every identity the stack has a password for."""
    given = {
        who: stack.password(passwords.broker_password(who))
        for who in passwords.BROKER_IDENTITIES
        if passwords.broker_password(who) in stack.settings.passwords
    }
    return definitions(given)


def admin_secret(stack: Stack) -> Manifest:
    """Name and password of the person who looks after the broker."""
    entries = {"username": names.broker_user("admin"), "password": stack.password(passwords.broker_password("admin"))}
    return secret(names.RABBITMQ_ADMIN, stack.data, entries, part=names.RABBITMQ)


def service_endpoint(namespace: str, *, tls: bool) -> BrokerEndpoint:
    """A broker of ours behind the Service of its name."""
    host = f"{names.RABBITMQ}.{namespace}.svc"
    scheme, port = "https" if tls else "http", manifests.management_port(tls=tls)
    return BrokerEndpoint(
        host=host,
        port=manifests.amqp_port(tls=tls),
        management_url=f"{scheme}://{host}:{port}",
        virtual_host=VIRTUAL_HOST,
        tls=tls,
    )
