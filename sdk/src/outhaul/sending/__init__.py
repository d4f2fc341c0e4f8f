"""What a sender is made of: claims, the pump between rows and the broker, breakers, marking."""
