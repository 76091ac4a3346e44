"""From a plain module to a program: its graph, walked by the rules, and tried in numbers."""
