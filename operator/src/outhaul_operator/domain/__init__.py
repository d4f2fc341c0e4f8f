"""What is to be done about each kind of object: pure functions of what was asked, what was seen and the time.

Each of `outbox`, `inbox`, `resend` and `redrive` has ``plan(spec, snapshot, now) -> Plan``, where ``now`` is the
operator's wall clock (UTC), and ``gone(target, status)``: the alerts to resolve when the object is deleted.
`blocked.by_spec` and `once.by_spec` are for an object whose spec cannot be read. ``run_ids(target, status)`` are the
records that a look has to bring; an object for which `once.is_final` holds needs no look at its parts.
"""
