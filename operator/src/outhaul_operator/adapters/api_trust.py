"""How far the API server's certificate is trusted: as kubectl trusts it, and no less."""

from __future__ import annotations

import ssl

from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User


def as_kubectl_does(context: ssl.SSLContext) -> ssl.SSLContext:
    """Without the strictness that Python 3.13 has by default.

    It refuses authorities without a key usage or key identifiers, which many clusters' own ones are. Signature, name
    and time are verified as before. https://docs.python.org/3.13/whatsnew/3.13.html#ssl
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def context_for(config: SingleConfig, user: User) -> ssl.SSLContext:
    """For the cluster of that context, with the user's certificate where there is one."""
    return as_kubectl_does(verify_cluster(config.cluster, user, config.abs_file, trust_env=False))
