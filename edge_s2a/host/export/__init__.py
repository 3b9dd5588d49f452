"""The tuned model in the formats that others read, one per file."""
