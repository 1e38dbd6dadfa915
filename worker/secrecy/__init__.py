"""User names and passwords: where they come from, and how they are kept inside the process."""
