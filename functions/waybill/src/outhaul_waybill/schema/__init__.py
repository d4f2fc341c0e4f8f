"""SQL of the waybill function's own table, `waybills`. Numbered, forward only."""

REQUIRES = ("inbox",)

GRANTS = {"function": {"waybills": "SELECT, INSERT"}}
