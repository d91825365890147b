"""What is removed: old history by a policy, one record on request."""
