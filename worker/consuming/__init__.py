"""What ``worker.consumer`` is made of: reading with and without a group, filters, lag."""
