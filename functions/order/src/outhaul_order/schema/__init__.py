"""SQL of the order function's own tables: `orders`, `idempotency_keys`. Numbered, forward only."""

REQUIRES = ("outbox",)

GRANTS = {"function": {"orders": "SELECT, INSERT", "idempotency_keys": "SELECT, INSERT, UPDATE, DELETE"}}
