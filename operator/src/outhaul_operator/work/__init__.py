"""What the operator's Jobs run: one resend or one redrive, on record, harmless when run twice or cut short."""
