"""SQL of the consumer's side: `inbox`, `deliveries`, `runs`. Numbered, forward only."""

PARTITIONED = ("inbox",)
