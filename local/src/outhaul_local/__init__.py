"""Local mode: PostgreSQL, RabbitMQ and both functions as processes on one machine."""
