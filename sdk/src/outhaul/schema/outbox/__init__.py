"""SQL of the producer's side: `outbox`, `outbox_sent`, `senders`, `runs`. Numbered, forward only."""

PARTITIONED = ("outbox_sent",)
