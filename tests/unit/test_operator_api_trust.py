"""Clusters' own authorities are seldom made by the letter of RFC 5280; kubectl takes them, and so does the operator."""

from __future__ import annotations

import ssl
from pathlib import Path

import kopf
import trustme
import yaml
from lightkube.config.kubeconfig import KubeConfig

from outhaul_operator.adapters.api_trust import as_kubectl_does, context_for
from outhaul_operator.handlers import Connection


def strict() -> ssl.SSLContext:
    """The default of Python 3.13, whichever this one is."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def test_only_the_strictness_goes() -> None:
    context = as_kubectl_does(strict())
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_requests_and_watching_both_trust_so(tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    trustme.CA().cert_pem.write_to_path(authority)
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://host:6443", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    single = KubeConfig.from_file(path).get()
    assert single is not None
    assert single.user is not None
    watching = Connection(server="https://host:6443", ca_path=str(authority))
    assert isinstance(watching, kopf.ConnectionInfo)
    for context in (context_for(single, single.user), watching.as_ssl_context()):
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
