"""Core AI: an .aimodel folder of MLIR bytecode, read, run and written by Apple's own libraries for Linux."""
