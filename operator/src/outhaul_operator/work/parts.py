"""What a run is given by its environment: the request, and where database and broker are. Refused when in doubt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from outhaul.configuration.environment import Environment
from outhaul.database import runs
from outhaul.errors import ConfigurationError
from outhaul.settings import BrokerSettings, DatabaseSettings
from outhaul_operator import requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything one run needs."""

    request: requests.RunRequest
    run_id: str
    actor: str
    database: DatabaseSettings
    broker: BrokerSettings


def parts_of(command: str, env: Environment, environ: Mapping[str, str]) -> Parts:
    """Read the environment. Raises ConfigurationError naming the variable, never showing an address' password."""
    return Parts(
        request=_request(command, env.text(requests.REQUEST_VARIABLE)),
        run_id=env.text(requests.RUN_ID_VARIABLE),
        actor=runs.actor_name(environ),
        database=env.database(requests.DATABASE_VARIABLE),
        broker=env.broker(requests.BROKER_VARIABLE),
    )


def _request(command: str, text: str) -> requests.RunRequest:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(requests.REQUEST_VARIABLE, text, f"is no JSON: {error}") from error
    kind = requests.ResendRun if command == requests.ResendRun.command else requests.RedriveRun
    request = kind.from_document(document)
    # Read and written again it must be the same: what is unknown, of another type or out of form is not.
    if _exact(request.document()) != _exact(document):
        raise ConfigurationError(
            requests.REQUEST_VARIABLE,
            text,
            f"is not what this release writes, which is {json.dumps(request.document(), sort_keys=True)}; "
            "operator and Job must be of one release",
        )
    return request


def _exact(document: object) -> str:
    """The document's text, in which true is not 1 (to Python they are equal) and 60 is 60.0."""
    return json.dumps(json.loads(json.dumps(document), parse_int=float), sort_keys=True)
