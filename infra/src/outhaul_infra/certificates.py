"""Certificates for the servers, and the authority for those who call them: from cert-manager, or given as Secrets."""

from __future__ import annotations

import pulumi

from outhaul_infra import names
from outhaul_infra.manifests import Manifest, metadata
from outhaul_infra.registering import register
from outhaul_infra.settings import CERT_MANAGER, CLOUDNATIVE_PG, EXTERNAL, STATEFULSET, TLS
from outhaul_infra.stack import Stack


class Certificates(pulumi.ComponentResource):
    """``rabbitmq_secret`` and ``postgres_secret`` are None where no TLS is asked for or the server is not ours."""

    def __init__(self, name: str, stack: Stack, *, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:Certificates", name, None, opts)
        tls = stack.settings.tls
        made_here = tls.enabled and tls.certificates == CERT_MANAGER
        self.rabbitmq_secret = _secret_name(stack, "rabbitmq") if stack.settings.rabbitmq.mode != EXTERNAL else None
        self.postgres_secret = _secret_name(stack, "postgres") if stack.settings.postgres.mode != EXTERNAL else None
        self.authority_secret = (tls.authority_secret or names.AUTHORITY) if tls.enabled else None
        if made_here:
            servers = (
                (self.rabbitmq_secret, names.RABBITMQ, stack.settings.rabbitmq.mode),
                (self.postgres_secret, _postgres_service(stack), stack.settings.postgres.mode),
            )
            for secret_name, service, mode in servers:
                if secret_name is not None:
                    # A server that an operator runs stays up where data is retained, and needs its certificate.
                    options = stack.options(self) if mode == STATEFULSET else stack.kept_options(self)
                    register(certificate(secret_name, stack.data, hosts_of(service, stack.data), tls), options)
            if tls.authority_secret is None:
                # cert-manager puts the authority beside every certificate, and so into the namespace that needs it.
                register(certificate(names.AUTHORITY, stack.app, [names.AUTHORITY], tls), stack.options(self))
        self.register_outputs({})


def _secret_name(stack: Stack, part: str) -> str | None:
    tls = stack.settings.tls
    if not tls.enabled:
        return None
    given = tls.rabbitmq_secret if part == "rabbitmq" else tls.postgres_secret
    return given or f"outhaul-{part}-tls"


def _postgres_service(stack: Stack) -> str:
    return f"{names.POSTGRES}-rw" if stack.settings.postgres.mode == CLOUDNATIVE_PG else names.POSTGRES


def hosts_of(service: str, namespace: str) -> list[str]:
    """The names a Service is called by."""
    return [service, f"{service}.{namespace}", f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"]


def certificate(secret_name: str, namespace: str, hosts: list[str], tls: TLS) -> Manifest:
    """A request to cert-manager."""
    described = metadata(secret_name, namespace)
    described["annotations"] = {"pulumi.com/waitFor": "condition=Ready"}
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": described,
        "spec": {
            "secretName": secret_name,
            "dnsNames": hosts,
            "issuerRef": {"name": tls.issuer, "kind": tls.issuer_kind},
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        },
    }
