"""`rabbitmq.mode: external`: a broker that is there already, with the users of `python -m outhaul_infra.external`."""

from __future__ import annotations

from outhaul_infra.endpoints import BrokerEndpoint
from outhaul_infra.rabbitmq_manifests import amqp_port
from outhaul_infra.settings import StackSettings


def external_broker(settings: StackSettings) -> BrokerEndpoint:
    """Nothing is made; the settings say where it is."""
    broker, tls = settings.rabbitmq, settings.tls.enabled
    assert broker.host is not None
    assert broker.management_url is not None
    return BrokerEndpoint(
        host=broker.host,
        port=broker.port or amqp_port(tls=tls),
        management_url=broker.management_url.rstrip("/"),
        virtual_host=broker.virtual_host,
        tls=tls,
    )
