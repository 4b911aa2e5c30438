"""Our own passes and decoder, for the model families that they support."""
