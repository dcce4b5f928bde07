"""What a person reads: terminal tables, figures and the report page."""
