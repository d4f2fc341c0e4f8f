"""How settings are read, checked and kept secret."""
