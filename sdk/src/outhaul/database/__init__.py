"""What is said to PostgreSQL: every statement by name, the outbox's store, schema and partitions."""
