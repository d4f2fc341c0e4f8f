"""The Secrets with the URLs by which the app's parts reach broker and databases: each has its own identity's alone."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from outhaul_infra import names, passwords
from outhaul_infra.endpoints import BrokerEndpoint, DatabaseEndpoint
from outhaul_infra.manifests import Manifest, checksum, secret
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack

OUTBOX_DATABASE = "outbox-database"
INBOX_DATABASE = "inbox-database"
OPERATOR_BROKER = "operator-broker"


class Credentials(pulumi.ComponentResource):
    """The Secrets under the names that the chart's values give them by default."""

    def __init__(
        self,
        name: str,
        stack: Stack,
        *,
        broker: BrokerEndpoint,
        database: DatabaseEndpoint,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("outhaul:infra:Credentials", name, None, opts)
        made = (*_database_secrets(stack, database), *_broker_secrets(stack, broker))
        for each in made:
            register(each, stack.options(self))
        self.checksum = checksum(*(value for each in made for value in each["data"].values()))
        self.register_outputs({})


def _database_secrets(stack: Stack, endpoint: DatabaseEndpoint) -> Sequence[Manifest]:
    made = []
    for function, look in (("order", OUTBOX_DATABASE), ("waybill", INBOX_DATABASE)):
        base = names.database(function)
        for name, role, kind in (
            (f"{function}-database", base, ""),
            (f"{function}-database-owner", names.owner(function), "owner"),
            (look, names.operator_role(function), "operator"),
        ):
            password = stack.password(passwords.database_password(function, kind))
            entries = {"url": endpoint.url(role, password, base)}
            made.append(secret(name, stack.app, entries, allow=name == look))
    return made


def _broker_secrets(stack: Stack, endpoint: BrokerEndpoint) -> Sequence[Manifest]:
    def password(identity: str) -> str:
        return stack.password(passwords.broker_password(identity))

    made = [
        secret(f"{who}-broker", stack.app, {"url": endpoint.amqp_url(who, password(who))}) for who in names.FUNCTIONS
    ]
    for who, name in (("topology", "topology-broker"), ("operator", OPERATOR_BROKER)):
        entries = {
            "url": endpoint.amqp_url(who, password(who)),
            "management-url": endpoint.management_url_of(who, password(who)),
        }
        made.append(secret(name, stack.app, entries, allow=name == OPERATOR_BROKER))
    if stack.settings.keda.enabled:
        entries = {
            "host": endpoint.management_url,
            "username": names.broker_user("keda"),
            "password": password("keda"),
        }
        made.append(secret("keda-broker", stack.app, entries))
    return made
