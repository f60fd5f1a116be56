"""Models that leave Python, and what is in their files."""
