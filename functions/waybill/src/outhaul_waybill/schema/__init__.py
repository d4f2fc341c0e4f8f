"""SQL of the waybill function's own table, `waybills`. Numbered, forward only."""

REQUIRES = ("inbox",)
