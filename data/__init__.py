"""Text to batches: sources (texts and labels), batches (ids, order, padding), cls and mlm (what each task makes of them)."""
