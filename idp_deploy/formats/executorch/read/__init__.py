"""A .pte, of any maker → Contents."""
