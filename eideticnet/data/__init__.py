"""What a loader gives: converted, checked, seeded, mixed, and kept."""
