"""The retention proof: whether one archive may replace another."""
