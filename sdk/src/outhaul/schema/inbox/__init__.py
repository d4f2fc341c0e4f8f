"""SQL of the consumer's side: `inbox`, `deliveries`, `runs`. Numbered, forward only."""

PARTITIONED = ("inbox",)

GRANTS = {
    "function": {
        "outhaul_schema": "SELECT",
        "retention": "SELECT",
        "inbox": "SELECT, INSERT, DELETE",
        "deliveries": "SELECT, INSERT, UPDATE, DELETE",
        "inbox_consumers": "SELECT, INSERT, UPDATE",
        "FUNCTION outhaul_make_partitions(text, integer)": "EXECUTE",
        "FUNCTION outhaul_drop_partitions(text, integer)": "EXECUTE",
    },
    # It redrives and discards, which clears the records of crashes; what was consumed is the consumer's to forget.
    "operator": {
        "outhaul_schema": "SELECT",
        "retention": "SELECT",
        "inbox_default": "SELECT",
        "deliveries": "SELECT, DELETE",
        "inbox_consumers": "SELECT",
        "runs": "SELECT, INSERT, UPDATE",
    },
}
