"""What the command tells and does: status, doctor, trace, audit, dead letters, the audit record."""
