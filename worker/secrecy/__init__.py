"""User names and passwords: where they come from, and how they stay inside the process."""
