"""The order function: takes orders and records, in one statement, the message each one causes."""
