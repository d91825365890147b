"""What the warehouse holds: a folder a domain, a module a source. Never opens a connection, never builds SQL."""
