"""What connectors read with: HTTP, rate limits, listings and their pages, recordings, local files."""
