"""The waybill function: turns each order into exactly one waybill."""
