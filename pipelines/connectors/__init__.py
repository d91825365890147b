"""What connectors read with: HTTP, rate limits, listings and their paginators, recordings, local files."""
