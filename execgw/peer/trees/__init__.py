"""File trees, for both sides: listed, compared, carried as changes, and written so that a crash leaves no half file."""
