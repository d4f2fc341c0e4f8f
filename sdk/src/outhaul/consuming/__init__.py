"""What a consumer is made of: its link to the broker, its worker, and how deliveries are decided."""
