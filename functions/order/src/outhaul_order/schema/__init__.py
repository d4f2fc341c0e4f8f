"""SQL of the order function's own tables: `orders`, `idempotency_keys`. Numbered, forward only."""

REQUIRES = ("outbox",)
