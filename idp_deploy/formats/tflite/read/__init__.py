"""Reading TFLite files; shares no code with writing."""
