"""Every ``OUTHAUL_`` environment variable there is: name, form, default, meaning and who reads it.

This table is the one source: `outhaul.configuration.environment` takes defaults from it and warns about names not in
it, and docs/reference/settings.md is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. ``default`` is text as a person would write it; None means unset."""

    name: str
    form: str
    default: str | None
    meaning: str
    used_by: str


_ALL = "order, waybill, command"
_BOTH = "order, waybill"
_SERVERS = "order, waybill, operator"


def _files(prefix: str, part: str, used_by: str) -> tuple[Setting, ...]:
    """The files that go with a URL of RabbitMQ."""
    return (
        Setting(
            f"{prefix}_PASSWORD_FILE",
            "path",
            None,
            f"file holding the password for {part}; wins over the URL's and is read again at every connection",
            used_by,
        ),
        Setting(f"{prefix}_CA_FILE", "path", None, f"authorities to trust for {part} (TLS)", used_by),
        Setting(f"{prefix}_CERT_FILE", "path", None, f"own certificate shown to {part} (mTLS)", used_by),
        Setting(f"{prefix}_KEY_FILE", "path", None, f"key of that certificate for {part}", used_by),
    )


def _database(prefix: str, part: str, used_by: str) -> tuple[Setting, ...]:
    return (
        Setting(
            f"{prefix}_URL",
            "libpq URL or key=value",
            None,
            f"{part}; TLS by libpq's own sslmode, sslrootcert, sslcert, sslkey",
            used_by,
        ),
        Setting(
            f"{prefix}_PASSWORD_FILE",
            "path",
            None,
            f"file holding the password for {part}; wins over the URL's and is read again at every connection",
            used_by,
        ),
    )


SETTINGS: tuple[Setting, ...] = (
    Setting("OUTHAUL_AMQP_URL", "amqp[s] URL", None, "RabbitMQ, ending in the virtual host", _ALL),
    *_files("OUTHAUL_AMQP", "RabbitMQ", _ALL),
    Setting("OUTHAUL_MANAGEMENT_URL", "http[s] URL", None, "RabbitMQ's management HTTP API", "command"),
    *_files("OUTHAUL_MANAGEMENT", "the management API", "command"),
    *_database("OUTHAUL_ORDER_DATABASE", "the order function's database", "order, command"),
    *_database("OUTHAUL_WAYBILL_DATABASE", "the waybill function's database", "waybill, command"),
    *_database("OUTHAUL_OUTBOX_DATABASE", "any producer's database, before the order function's", "command"),
    *_database("OUTHAUL_INBOX_DATABASE", "any consumer's database, before the waybill function's", "command"),
    Setting(
        "OUTHAUL_ACTOR",
        "text",
        None,
        "who acts, as the record of redrives and discards shows it; else user@host",
        "command",
    ),
    Setting("OUTHAUL_CONSUMER", "name", None, "which consumer of an inbox is meant; unset: its only one", "command"),
    Setting("OUTHAUL_QUEUE", "name", None, "the consumer's queue; unset: the topology's only one", "command"),
    Setting(
        "OUTHAUL_TOPOLOGY",
        "name or path",
        None,
        "declared topology: an installed one's name, module:ATTRIBUTE, or a .toml or .json file; unset: all installed",
        "command",
    ),
    Setting("OUTHAUL_HOME", "path", ".outhaul", "where local mode keeps its data, logs and env file", "local mode"),
    Setting(
        "OUTHAUL_RABBITMQ_SERVER",
        "path",
        None,
        "the rabbitmq-server local mode starts; else found on PATH",
        "local mode",
    ),
    Setting(
        "OUTHAUL_ALERT_WEBHOOK_URL",
        "http[s] URL",
        None,
        "where alerts are posted in Alertmanager's webhook form; unset: alerts are only logged",
        "order, waybill, operator, command",
    ),
    Setting("OUTHAUL_HTTP_HOST", "address", "127.0.0.1", "where to listen; 0.0.0.0 for every interface", _SERVERS),
    Setting(
        "OUTHAUL_HTTP_PORT",
        "port",
        None,
        "where to listen; unset: 8080 for order, 8081 for waybill, 8082 for the operator",
        _SERVERS,
    ),
    Setting("OUTHAUL_HTTP_MAX_BODY_BYTES", "whole number", "262144", "largest body taken; beyond it 413", "order"),
    Setting("OUTHAUL_DRAIN_TIMEOUT", "duration", "20s", "from SIGTERM to the end; below the grace period", _BOTH),
    Setting("OUTHAUL_DATABASE_POOL_SIZE", "whole number", "8", "database connections for HTTP requests", _BOTH),
    Setting("OUTHAUL_DATABASE_TIMEOUT", "duration", "5s", "longest an HTTP request waits for the database", _BOTH),
    Setting(
        "OUTHAUL_DATABASE_PREPARED_STATEMENTS",
        "true or false",
        "true",
        "false: HTTP requests prepare none; behind pgbouncer they do not anyway",
        _BOTH,
    ),
    Setting("OUTHAUL_SENDER_LEASE", "duration", "60s", "for how long a row to be sent is one sender's alone", "order"),
    Setting(
        "OUTHAUL_SENDER_CONFIRM_TIMEOUT",
        "duration",
        "30s",
        "longest wait for the broker's confirm; below the lease",
        "order",
    ),
    Setting("OUTHAUL_SENDER_MAX_ATTEMPTS", "whole number", "8", "refusals of one message before it is parked", "order"),
    Setting(
        "OUTHAUL_SENDER_RETENTION",
        "duration",
        "30d",
        "for how long what was sent stays in the history, in whole days; a day at least",
        "order",
    ),
    Setting("OUTHAUL_IDEMPOTENCY_KEEP", "duration", "24h", "for how long a key gives its first answer again", "order"),
    Setting(
        "OUTHAUL_CONSUMER_PREFETCH",
        "whole number",
        "500",
        "messages held at once, once it has proved itself",
        "waybill",
    ),
    Setting("OUTHAUL_CONSUMER_BATCH_SIZE", "whole number", "100", "messages of one transaction at most", "waybill"),
    Setting(
        "OUTHAUL_CONSUMER_MAX_ATTEMPTS",
        "whole number",
        "8",
        "failures of one message before it is a dead letter",
        "waybill",
    ),
    Setting(
        "OUTHAUL_CONSUMER_MAX_CRASHES",
        "whole number",
        "5",
        "crashes over one message before it is a dead letter",
        "waybill",
    ),
    Setting(
        "OUTHAUL_CONSUMER_HANDLER_TIMEOUT", "duration", "60s", "a handler that takes longer ends the process", "waybill"
    ),
    Setting(
        "OUTHAUL_CONSUMER_RETENTION",
        "duration",
        "30d",
        "for how long messages are remembered; a day at least",
        "waybill",
    ),
    Setting(
        "OUTHAUL_OPERATOR_NAMESPACES",
        "names with commas between",
        None,
        "namespaces whose resources are looked after; unset: the whole cluster",
        "operator",
    ),
    Setting("OUTHAUL_OPERATOR_IMAGE", "image", "outhaul/operator:dev", "what every Job runs", "operator"),
    Setting(
        "OUTHAUL_OPERATOR_JOB_SERVICE_ACCOUNT",
        "name",
        "outhaul-job",
        "what every Job runs as, in the resource's namespace; it needs no rights",
        "operator",
    ),
    Setting(
        "OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY",
        "Always, IfNotPresent or Never",
        "IfNotPresent",
        "when a Job's image is pulled",
        "operator",
    ),
    Setting(
        "OUTHAUL_OPERATOR_JOB_BROKER_AUTHORITY",
        "secret/entry",
        None,
        "authorities that Jobs trust for brokers, by a Secret of the resource's namespace; unset: the image's own",
        "operator",
    ),
    Setting(
        "OUTHAUL_OPERATOR_JOB_DATABASE_AUTHORITY",
        "secret/entry",
        None,
        "the same for databases, whose certificates are then verified in full; unset: as their URLs say",
        "operator",
    ),
    Setting(
        "OUTHAUL_OPERATOR_MAX_JOBS",
        "whole number",
        "10",
        "resend Jobs of all Outboxes at once, so that an outage's end is no stampede",
        "operator",
    ),
    Setting("OUTHAUL_OPERATOR_CONCURRENCY", "whole number", "64", "resources looked at at once", "operator"),
    Setting(
        "OUTHAUL_OPERATOR_LOOK_TIMEOUT",
        "duration",
        "5s",
        "longest wait for one database, broker or API call of one look",
        "operator",
    ),
    Setting(
        "OUTHAUL_RUN_REQUEST",
        "JSON",
        None,
        "what a Job is to do; written by the operator into the Job",
        "Jobs",
    ),
    Setting("OUTHAUL_RUN_ID", "name", None, "the Job's name, under which its progress is recorded", "Jobs"),
    Setting("OUTHAUL_TERMINATION_LOG", "path", "/dev/termination-log", "where a Job leaves its report", "Jobs"),
    *_database("OUTHAUL_DATABASE", "the database a Job works on", "Jobs"),
    Setting("OUTHAUL_LOG_FORMAT", "json or text", "json", "one JSON object a line, or text for people", _SERVERS),
    Setting("OUTHAUL_LOG_LEVEL", "debug, info, warning or error", "info", "least severe event logged", _SERVERS),
    Setting(
        "OUTHAUL_TEST_FAILPOINTS",
        "point=action[@n], several with commas",
        None,
        "for tests alone: dies, stops or pauses at a point between two steps; see above",
        _BOTH,
    ),
    Setting(
        "OUTHAUL_TEST_SENDER_LEASE",
        "duration",
        None,
        "for tests alone: a lease however short, in place of `OUTHAUL_SENDER_LEASE`; messages are sent several times",
        "order",
    ),
    Setting(
        "OUTHAUL_TEST_POSTGRES_URL",
        "libpq URL",
        None,
        "a running server for the tests, in place of one of their own",
        "tests",
    ),
    Setting(
        "OUTHAUL_TEST_AMQP_URL",
        "amqp URL",
        None,
        "a running broker for the tests, in place of one of their own",
        "tests",
    ),
    Setting("OUTHAUL_TEST_MANAGEMENT_URL", "http URL", None, "that broker's management API", "tests"),
)


def reference_page() -> str:
    """The table as Markdown, as docs/reference/settings.md holds it."""
    rows = [
        f"| `{setting.name}` | {setting.form} | {'' if setting.default is None else f'`{setting.default}`'} "
        f"| {setting.meaning} | {setting.used_by} |"
        for setting in SETTINGS
    ]
    return "\n".join(("| variable | form | default | meaning | used by |", "|---|---|---|---|---|", *rows)) + "\n"
