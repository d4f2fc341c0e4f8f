"""SQL of the producer's side: `outbox`, `outbox_sent`, `senders`, `runs`. Numbered, forward only."""

PARTITIONED = ("outbox_sent",)

_KEEP_HISTORY = {
    "FUNCTION outhaul_make_partitions(text, integer)": "EXECUTE",
    "FUNCTION outhaul_drop_partitions(text, integer)": "EXECUTE",
}
# Who sends counts the rows in the net under the history; by the history's own name that needs no right of its own.
_SEND = {
    "outhaul_schema": "SELECT",
    "retention": "SELECT",
    "outbox_sent": "SELECT, INSERT",
    "outbox_sent_default": "SELECT",
    "senders": "SELECT, INSERT, UPDATE, DELETE",
    **_KEEP_HISTORY,
}
GRANTS = {
    "function": {"outbox": "SELECT, INSERT, UPDATE, DELETE", **_SEND},
    # It looks, resends and tends the history; it is no sender of its own, so it writes no heartbeat.
    "operator": {
        "outhaul_schema": "SELECT",
        "outbox": "SELECT, UPDATE, DELETE",
        "outbox_sent": "INSERT",
        "outbox_sent_default": "SELECT",
        "senders": "SELECT",
        "runs": "SELECT, INSERT, UPDATE",
        **_KEEP_HISTORY,
    },
}
