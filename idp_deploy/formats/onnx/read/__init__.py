"""Reading ONNX files; shares no code with writing."""
