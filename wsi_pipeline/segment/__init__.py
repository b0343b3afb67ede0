"""Ask a model about every tile or every prompt and keep the answers as compact object records."""
