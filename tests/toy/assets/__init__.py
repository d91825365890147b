"""What the toy project holds: one domain, for the tests of the engine."""
