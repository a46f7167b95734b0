"""An .aimodel, of any maker → Contents."""
