"""What local mode remembers between its commands: ports, passwords and processes, in ``state.json``."""

from __future__ import annotations

import secrets

import msgspec

from outhaul_local.failure import LocalFailure
from outhaul_local.home import Home, write_private
from outhaul_local.processes import ProcessRef
from outhaul_local.rabbitmq import BrokerPorts

VERSION = 1
ORDER, WAYBILL = "order", "waybill"
FUNCTIONS = (ORDER, WAYBILL)


def _password() -> str:
    return secrets.token_hex(16)


class PostgresState(msgspec.Struct):
    """The own PostgreSQL. ``admin_password`` is of the role that owns the databases, ``password`` of postgres."""

    port: int = 0
    password: str = msgspec.field(default_factory=_password)
    admin_password: str = msgspec.field(default_factory=_password)
    role_passwords: dict[str, str] = msgspec.field(default_factory=lambda: {name: _password() for name in FUNCTIONS})
    process: ProcessRef | None = None


class BrokerState(msgspec.Struct):
    """The own RabbitMQ: ``kind`` is native or docker; ports, passwords and name stay while its data does."""

    kind: str = ""
    binary: str = ""
    node: str = ""
    ports: BrokerPorts | None = None
    password: str = msgspec.field(default_factory=_password)
    user_passwords: dict[str, str] = msgspec.field(default_factory=lambda: {name: _password() for name in FUNCTIONS})
    process: ProcessRef | None = None


class FunctionState(msgspec.Struct):
    """One function's process and HTTP port. ``settings_digest`` tells whether it runs with the settings of now."""

    port: int = 0
    settings_digest: str = ""
    process: ProcessRef | None = None


class External(msgspec.Struct):
    """What somebody exported to be used in place of our own: None where it is ours."""

    amqp_url: str | None = None
    management_url: str | None = None
    databases: dict[str, str] = msgspec.field(default_factory=dict)
    alert_webhook_url: str | None = None


class State(msgspec.Struct):
    """All of it. ``up`` is what the last finished command wanted; the supervisor restarts only while it is true."""

    version: int = VERSION
    up: bool = False
    servers_folder: str = ""
    postgres: PostgresState = msgspec.field(default_factory=PostgresState)
    broker: BrokerState = msgspec.field(default_factory=BrokerState)
    functions: dict[str, FunctionState] = msgspec.field(
        default_factory=lambda: {name: FunctionState() for name in FUNCTIONS}
    )
    external: External = msgspec.field(default_factory=External)
    supervisor: ProcessRef | None = None
    alerts_port: int = 0


def load(home: Home) -> State:
    """The remembered state, or a fresh one. Raises :class:`LocalFailure` when the file is not ours to read."""
    try:
        content = home.state_file.read_bytes()
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise LocalFailure(
            f"cannot read {home.state_file}: {error.strerror}", remedy="run as the user who ran `make up`"
        ) from error
    try:
        state = msgspec.json.decode(content, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalFailure(
            f"{home.state_file} is damaged: {error}",
            remedy=f"move {home.folder} away and run `make up` again (the local data starts anew)",
        ) from error
    if state.version != VERSION:
        raise LocalFailure(
            f"{home.state_file} is of another release (version {state.version})",
            remedy="use that release's `make down DATA=delete`, then `make up`",
        )
    return state


def save(home: Home, state: State) -> None:
    """Remember, whole or not at all."""
    write_private(home.state_file, msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")
