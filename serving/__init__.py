"""Serve model archives: start an engine, watch it, let new versions take over, stop. Never imports torch."""
