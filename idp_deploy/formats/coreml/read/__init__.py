"""Reading Core ML packages; shares no code with writing."""
