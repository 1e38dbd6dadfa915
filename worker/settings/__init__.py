"""Settings: fields, and how they are read from flags, environment and files."""
