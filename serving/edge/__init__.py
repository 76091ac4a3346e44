"""HAProxy in front of an engine: TLS, keys, sizes, times, and who has to wait. Knows no engine."""
