"""The operator's edges: databases, brokers and the API server, as `outhaul_operator.ports` asks for them."""
