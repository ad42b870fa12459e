"""What one connection, ping or subscription takes: `python bench/capacity TOOL`."""
