"""Look at every part that is given, and say of each whether it is as it should be and what helps if not.

One part that is away does not keep the others from being looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from outhaul.broker_admin import topology_apply
from outhaul.broker_admin.depths import look
from outhaul.broker_admin.management import Management
from outhaul.broker_admin.routes import consumer_queues
from outhaul.configuration.environment import Environment
from outhaul.errors import BrokerUnreachable, ConfigurationError, OuthaulError, Unreachable
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul.tools import database_health
from outhaul.tools.findings import Finding, Level
from outhaul.tools.status import judge, judge_queues, read_inbox, read_outbox
from outhaul.topology import Topology

Connection = psycopg.Connection[Any]
Connect = Callable[[], Connection | None]


@dataclass(slots=True)
class Examination:
    """The findings so far, and whether a part could not be reached."""

    findings: list[Finding]
    unreachable: bool = False

    def take(self, check: str, look_at: Callable[[], Iterable[Finding]]) -> None:
        """Add what one look finds; its failure is a finding too."""
        try:
            for finding in look_at():
                self.findings.append(finding)
        except OuthaulError as error:
            self.unreachable = self.unreachable or isinstance(error, Unreachable)
            self.findings.append(Finding(check, Level.PROBLEM, *_told(error)))
        except psycopg.Error as error:
            lost = isinstance(error, psycopg.OperationalError) and not isinstance(error, psycopg.errors.QueryCanceled)
            self.unreachable = self.unreachable or lost
            text = " ".join(str(error).split()) or type(error).__name__
            remedy = "grant this role SELECT on Outhaul's tables" if "permission denied" in text else ""
            self.findings.append(Finding(check, Level.PROBLEM, text, remedy))


def check_settings(environment: Environment) -> Iterator[Finding]:
    """Variables that nobody reads: usually a name misspelt."""
    sentences = environment.warn_unknown()
    for sentence in sentences:
        yield Finding("settings", Level.WARNING, sentence, "correct its name, or unset it")
    if not sentences:
        yield Finding("settings", Level.OK, "every OUTHAUL_ variable is known")


def check_database(connect: Connect, component: str, *, long_transaction_seconds: float) -> Iterator[Finding]:
    """One side's database, and who works on it."""
    conn = connect()
    if conn is None:
        text = "not given, so not looked at"
        yield Finding(f"{component} database", Level.SKIPPED, text, f"give --{component}-dsn")
        return
    broken = False
    for finding in database_health.examine(conn, component, long_transaction_seconds=long_transaction_seconds):
        broken = broken or (finding.check.endswith("schema") and finding.level is Level.PROBLEM)
        yield finding
    if broken:
        return
    if component == "outbox":
        yield from judge(outbox=read_outbox(conn))
    else:
        yield from judge(inbox=read_inbox(conn))


def check_amqp(broker: BrokerSettings | None) -> Iterator[Finding]:
    """Whether the broker lets us in, and which one it is."""
    if broker is None:
        yield Finding("broker", Level.SKIPPED, "not given, so not looked at", "give --amqp-url")
        return
    import pika  # noqa: PLC0415 - without a broker it is not needed
    from pika import exceptions  # noqa: PLC0415 - as above

    from outhaul.amqp.broker import unreachable  # noqa: PLC0415 - as above

    try:
        connection = pika.BlockingConnection(broker.parameters(connection_name="outhaul doctor"))
        properties = connection._impl.server_properties  # noqa: SLF001 - the blocking adapter hides it
        connection.close()
    except (exceptions.AMQPError, OSError) as error:
        raise unreachable(broker.address, error) from error
    version = str(properties.get("version", "?"))
    yield Finding("broker", Level.OK, f"RabbitMQ {version} at {broker.address}")
    if broker.tls is None and not broker.is_loopback:
        text = "the connection is not encrypted, and the broker is not on this machine"
        yield Finding("broker", Level.WARNING, text, "use amqps://")


def check_nodes(api: Management) -> Iterator[Finding]:
    """Alarms, nodes that are down, and a cluster that fell apart."""
    try:
        nodes = api.get("nodes")
    except BrokerUnreachable as error:
        if "Not monitor" not in str(error):
            raise
        remedy = f"rabbitmqctl set_user_tags {api.settings.user} monitoring"
        yield Finding("broker alarms", Level.SKIPPED, f"user {api.settings.user!r} may not see the nodes", remedy)
        return
    troubled = False
    for node in nodes or ():
        for found, text, remedy in (
            (not node.get("running"), "is down", "start it, and see its log"),
            (node.get("mem_alarm"), "has a memory alarm: nothing is published", "consume, or give it more memory"),
            (node.get("disk_free_alarm"), "has a disk alarm: nothing is published", "free disk space"),
            (node.get("partitions"), "is cut off from a part of its cluster", "mend the network; see its log"),
        ):
            if found:
                troubled = True
                yield Finding("broker alarms", Level.PROBLEM, f"node {node.get('name')} {text}", remedy)
    if not troubled:
        yield Finding("broker alarms", Level.OK, f"none; {len(nodes or ())} nodes")


def check_topology(
    topology: Topology | None, broker: BrokerSettings, management: ManagementSettings
) -> Iterator[Finding]:
    """Whether the broker is what was declared."""
    if topology is None:
        yield Finding("topology", Level.SKIPPED, "none is declared here", "give --topology")
        return
    differences = topology_apply.diff(topology, broker, management)
    for difference in differences:
        level = Level.WARNING if difference.harmless else Level.PROBLEM
        yield Finding("topology", level, difference.text, difference.remedy)
    if not differences:
        yield Finding("topology", Level.OK, f"as declared: {len(topology.queues)} queues")


def examine(
    *,
    environment: Environment,
    outbox: Connect,
    inbox: Connect,
    broker: Callable[[], BrokerSettings | None],
    management: Callable[[], ManagementSettings | None],
    topology: Callable[[], Topology | None],
    queue: Callable[[], str | None],
    long_transaction_seconds: float,
) -> Examination:
    """Everything, in the order in which a message travels. Never raises for a part that is away or wrongly set."""
    result = Examination([])
    result.take("settings", lambda: check_settings(environment))
    for component, connect in (("outbox", outbox), ("inbox", inbox)):
        look_at = partial(check_database, connect, component, long_transaction_seconds=long_transaction_seconds)
        result.take(f"{component} database", look_at)
    result.take("broker", lambda: check_amqp(broker()))
    result.take("management", lambda: _by_management(result, broker(), management(), topology, queue))
    return result


def _by_management(
    result: Examination,
    broker: BrokerSettings | None,
    management: ManagementSettings | None,
    topology: Callable[[], Topology | None],
    queue: Callable[[], str | None],
) -> Iterator[Finding]:
    if broker is None or management is None:
        text = "not given: alarms, policies and queues are not looked at"
        yield Finding("management", Level.SKIPPED, text, "give --management-url and --amqp-url")
        return
    api = Management(management, virtual_host=broker.virtual_host)
    version = ".".join(map(str, api.version()))
    yield Finding("management", Level.OK, f"RabbitMQ {version} at {management.address}")
    result.take("broker alarms", lambda: check_nodes(api))
    result.take("topology", lambda: check_topology(topology(), broker, management))
    for name in _queues(topology, queue):
        result.take("queue", partial(_check_queue, api, name))


def _check_queue(api: Management, name: str) -> list[Finding]:
    return judge_queues(name, look(api, name))


def _queues(topology: Callable[[], Topology | None], queue: Callable[[], str | None]) -> list[str]:
    named = queue()
    if named:
        return [named]
    declared = topology()
    return consumer_queues(declared) if declared else []


def _told(error: OuthaulError) -> tuple[str, str]:
    if isinstance(error, Unreachable):
        return f"{error.part} at {error.address}: {error.why}", error.remedy
    if isinstance(error, ConfigurationError):
        return f"{error.setting}={error.value!r} cannot be used", error.remedy
    return str(error), ""
