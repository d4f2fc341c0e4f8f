"""RabbitMQ as it is spoken: connections, confirm channels and the window of what is unconfirmed."""
