"""The operator: stuck outbox rows become resend Jobs. A package stub until it is built."""
