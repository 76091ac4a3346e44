"""Child processes: their groups, what they print, and the private folder of an engine."""
